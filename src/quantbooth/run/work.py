"""What settings have to compute: artifacts to make, and those that are finished, made now or made by an earlier one."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from quantbooth.run.run import Run
from quantbooth.store.store import Artifact

__all__ = ["FOUND", "MAKE", "RUNNING", "SHARED", "show_work", "work"]

MAKE, RUNNING, FOUND, SHARED = "make", "running", "found", "shared"
STAGES = ("quantized base", "class pictures", "tuning", "pictures", "scores")


def work(runs: Iterable[Run]) -> list[dict[str, Counter[str]]]:
    """Return for each setting and stage how many artifacts are MAKE, RUNNING, FOUND, or SHARED with earlier ones."""
    planned: set[Path] = set()
    found = []
    for run in runs:
        counts: dict[str, Counter[str]] = {}
        for stage, artifacts in _artifacts(run).items():
            of_stage = counts.setdefault(stage, Counter())
            for artifact in artifacts:
                of_stage[SHARED if artifact.path in planned else _state(artifact)] += 1
                planned.add(artifact.path)
        found.append(counts)
    return found


def _state(artifact: Artifact) -> str:
    if artifact.find():
        return FOUND
    return RUNNING if artifact.running else MAKE


def _artifacts(run: Run) -> dict[str, list[Artifact]]:
    subjects, steps = run.subjects, run.steps
    priors = [one.prior for one in subjects] if run.recipe.makes_class_pictures else []
    made = (
        [] if run.quantized_base is None else [run.quantized_base],
        priors,
        [one.tuned for one in subjects],
        [one.images(step) for one in subjects for step in steps],
        [one.scores(step) for one in subjects for step in steps],
    )
    return {stage: list({one.path: one for one in each}.values()) for stage, each in zip(STAGES, made, strict=True)}


def show_work(runs: Sequence[Run], console: Console | None = None) -> None:
    """Print a line for each setting, and the sum."""
    table, sums = Table(box=None, pad_edge=False, header_style=""), dict[str, Counter[str]]()
    for title in ("job", "setting", *STAGES):
        table.add_column(title, justify="right" if title == "job" else "left")
    for number, (run, counts) in enumerate(zip(runs, work(runs), strict=True), start=1):
        names = ", ".join(one.name for one in run.subjects)
        setting = f"{names} {run.served_method} {run.weights_name} seed {run.settings['seed']}"
        table.add_row(str(number), setting, *(_cell(counts[stage]) for stage in STAGES))
        for stage in STAGES:
            sums.setdefault(stage, Counter()).update(counts[stage])
    table.add_row("", "all", *(_cell(sums[stage]) for stage in STAGES))
    (console or Console()).print(table)


def _cell(counts: Counter[str]) -> str:
    found = [(counts[word], word) for word in (MAKE, RUNNING, FOUND, SHARED) if counts[word]]
    if [count for count, _ in found] == [1]:
        return found[0][1]
    return ", ".join(f"{count} {word}" for count, word in found) or "-"
