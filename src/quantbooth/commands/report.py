"""quantbooth-report: write scores as a table, plots and a page.

quantbooth-report report.scores=[outputs/store/scores/A,outputs/store/scores/B] report.folder=outputs/report
quantbooth-report report.scores=[outputs/store/scores]
"""

import hashlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from omegaconf import DictConfig, OmegaConf

from quantbooth.evaluation.files import read_record, read_rows
from quantbooth.reporting.page import About, write_report
from quantbooth.reporting.results import Result
from quantbooth.reporting.score_table import score_table
from quantbooth.reporting.search import trial_table
from quantbooth.reporting.study import Study
from quantbooth.reporting.style import Style, ThemeColour
from quantbooth.run.options import timestep_sampler_of
from quantbooth.run.run import Run
from quantbooth.run.tracking import item
from quantbooth.runtime.config import conf_dir
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.loggers import log_report, trackers_of
from quantbooth.runtime.sweeps import sweep_name
from quantbooth.runtime.used import name_unused
from quantbooth.runtime.versions import made
from quantbooth.sampling.image_set import read_requests
from quantbooth.store.documents import read_options
from quantbooth.store.manifest import Manifest, open_artifact
from quantbooth.store.store import CONFIG, slugify
from quantbooth.timesteps.samplers import TimestepSampler
from quantbooth.tuning.files import TUNED, last_step, open_tuned, strategy_of

__all__ = ["job", "method_styles", "read_result", "report", "unscored", "without_pictures"]

STYLE = "method_style"
"""The node of conf/method/NAME.yaml that says how the method is shown; it enters no identity."""
MOST_NAMED, LONGEST, DIGITS = 4, 80, 6
LOSS = "tune/loss"
OF_RUNS = (
    *("base", "quant", "calibration", "tuner", "strategy", "subject", "subjects", "prior", "optimizer", "sampler"),
    *("locator", "dino", "scorer", "trainer", "protocol", "method", "seed", "tag", "resources", "preview", "strength"),
    *("unconditional_strength", "reward_guidance", "negative_prompt", "lora", "paths.store", "paths.dreambooth"),
)
"""Options that choose the scores of a setting, which given folders need no more."""


def job(cfg: DictConfig) -> Path:
    """Run the command on one configuration."""
    return report(cfg)


def report(cfg: DictConfig, scores: Sequence[Path] = ()) -> Path:
    """Write a report of the scores in report.scores, or of this setting's; print the table."""
    given = [folder for path in cfg.report.scores for folder in _finished(Path(path))]
    folders = list(scores) or given or _own(cfg)
    if given:
        name_unused(sys.argv[1:], OF_RUNS, "where report.scores decides what is shown")
    results = tuple(read_result(folder, Path(cfg.paths.logs)) for folder in folders)
    study = Study(results, method_styles(), tuple(cfg.report.compare_with))
    missing = unscored([Path(path) for path in cfg.report.scores], study.results)
    commands, objectives = [_typed(), *_alone(folders, study.results)], tuple(cfg.objectives)
    gone = without_pictures(study.results)
    about = About(commands, [*cfg.report.notes, *gone], missing, made(), objectives)
    folder = Path(cfg.report.folder or Path(cfg.paths.outputs) / "reports" / _slug(study, folders))
    files = write_report(study, folder, about)
    trackers = trackers_of(cfg, f"report-{folder.name}", _of_sweep)
    log_report(trackers, files, [item(one, "scores", used=True) for one in folders])
    score_table(study).show()
    if objectives and study.tuned:
        trial_table(study, objectives).show()
    compared = {study.label(method) for method in study.references}
    if left_out := [label for label in study.compare_with if label not in compared]:
        print(f"incomplete, so that nothing is compared with it: {', '.join(left_out)}")  # noqa: T201
    if missing:
        print(f"tuned and not scored: {', '.join(missing)}")  # noqa: T201  # what the table cannot tell
    for line in gone:
        print(line)  # noqa: T201
    print(f"the page: {folder / 'index.html'}")  # noqa: T201  # what a person looks for next
    return folder


def _of_sweep() -> dict[str, Any]:
    return {"group": sweep_name(), "job_type": "report"}


def method_styles() -> dict[str, Style]:
    """Return how each method of conf/method is shown: label, colour on light and on dark ground, marker, order."""
    found = {}
    for file in sorted((conf_dir() / "method").glob("*.yaml")):
        style = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get(STYLE)
        if style is not None:
            colour = ThemeColour(style["colour"]["light"], style["colour"]["dark"])
            found[file.stem] = Style(colour, style["marker"], style["label"], style["order"])
    return found


def read_result(folder: Path, logs: Path | None = None) -> Result:
    """Return scores for a report; the pictures are in the same store, where they are kept.

    Args:
        folder: of the scores.
        logs: folder of logged losses; None uses the settings of the run.
    """
    open_artifact(folder, "scores")
    record, store = read_record(folder), folder.parent.parent
    images, tuned = store / record.images, _tuned(store, record.run) if record.step else None
    settings, drawn = _settings(folder), open_artifact(images, "image_set") if images.exists() else None
    return Result(
        method=record.method,
        subject=record.subject,
        quant=record.quant,
        seed=record.seed,
        step=record.step,
        base=record.base,
        scorer=record.scorer,
        rows=read_rows(folder),
        costs=record.costs,
        images=images,
        references=images / "references" if drawn else None,
        run=record.run,
        protocol=record.protocol,
        strategy=None if tuned is None else strategy_of(open_tuned(tuned)),
        density=None if tuned is None else _density(settings, open_tuned(tuned)),
        sampled=tuple(drawn.contents.get("timesteps", ())) if drawn else (),
        kept_until=None if tuned is None else last_step(tuned),
        weights=drawn.parents.get("quantized_base", "") if drawn else "",
        settings=settings,
        loss=_loss(record.run, [*([logs] if logs else []), *_logs(settings)]) if record.step else (),
        texts={one.prompt: one.judged_text for one in read_requests(images)} if drawn else {},
    )


def without_pictures(results: Sequence[Result]) -> list[str]:
    """Return a sentence on the scores whose pictures are not kept; none if all are."""
    gone = sum(not result.images.exists() for result in results)
    count = f"The pictures of {gone} of {len(results)} scores are not kept"
    return [f"{count}: none is shown, and whether all are of one quantized base is unknown."] if gone else []


def _settings(folder: Path) -> Mapping[str, Any]:
    """Return the resolved options stored with scores; empty if there are none."""
    file = folder / CONFIG
    return read_options(file) if file.is_file() else {}


def _density(settings: Mapping[str, Any], tuned: Manifest) -> TimestepSampler | None:
    """Return what the timesteps of tuning were drawn by; None where it is unknown, or a file has changed since."""
    try:
        found = timestep_sampler_of(OmegaConf.create(dict(settings)), strategy_of(tuned)) if settings else None
    except UserError:  # its file or its base is not there any more
        return None
    return found if found and tuned.contents.get("timesteps", found.describe()) == found.describe() else None


def _logs(settings: Mapping[str, Any]) -> list[Path]:
    paths = settings.get("paths")
    kept = paths.get("logs") if isinstance(paths, dict) else None
    return [Path(kept)] if isinstance(kept, str) else []


def _loss(run: str, logs: Sequence[Path]) -> tuple[tuple[int, float], ...]:
    """Return the training loss by step from logger=csv; empty if there is no file."""
    file = next((file for folder in logs if (file := folder / "csv" / run / "metrics.csv").is_file()), None)
    rows = pd.DataFrame() if file is None else pd.read_csv(file)
    if not {"step", LOSS} <= set(rows):
        return ()
    rows = rows[["step", LOSS]].dropna()
    return tuple(zip(rows["step"].astype(int).tolist(), rows[LOSS].astype(float).tolist(), strict=True))


def _slug(study: Study, folders: Sequence[Path]) -> str:
    """Return a name from base, subjects, methods, and a digest of the scores."""
    subjects = list(study.subjects)
    methods = list(dict.fromkeys(method.name for method in study.tuned)) or ["base"]
    parts = [study.results[0].base]
    for names, noun in ((subjects, "subjects"), (methods, "methods")):
        parts += names if len(names) <= MOST_NAMED else [f"{len(names)}-{noun}"]
    scores = [open_artifact(folder, "scores") for folder in folders]
    identities = sorted(f"{manifest.name} {manifest.fingerprint}" for manifest in scores)
    digest = hashlib.sha256("\n".join(identities).encode()).hexdigest()[:DIGITS]
    return f"{'-'.join(map(slugify, parts))[:LONGEST].rstrip('-')}-{digest}"


def unscored(scores: Sequence[Path], results: Sequence[Result]) -> list[str]:
    """Return the names of finished tuning runs without scores, if all scores of their store are in the report."""
    known = {result.run for result in results}
    stores = {path.parent for path in scores if _holds_scores(path)}
    runs = (found.parent.name for s in stores for kind in TUNED for found in (s / kind).glob("*/manifest.json"))
    return sorted(set(runs) - known)


def _tuned(store: Path, run: str) -> Path | None:
    """Return the tuned artifact in the same store; None if it was removed."""
    return next((folder for kind in TUNED if (folder := store / kind / run).is_dir()), None)


def _holds_scores(path: Path) -> bool:
    return any(path.glob("*/manifest.json"))


def _finished(path: Path) -> list[Path]:
    """Return the folder itself, or the finished scores in it if it contains several."""
    return sorted(found.parent for found in path.glob("*/manifest.json")) or [path]


def _own(cfg: DictConfig) -> list[Path]:
    run = Run(cfg)
    return [one.scores(step).require() for one in run.subjects for step in run.steps]


def _alone(folders: Sequence[Path], results: Sequence[Result]) -> list[str]:
    """Return the command of each run, from the settings stored with its scores."""
    of_runs = {result.run: folder for folder, result in zip(folders, results, strict=True) if not result.untuned}
    kept = [folder for folder in of_runs.values() if (folder / CONFIG).is_file()]
    return [f"quantbooth --config-dir {shlex.quote(str(folder))} --config-name config" for folder in kept]


def _typed() -> str:
    """Return the command line."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
