"""What a tracker logs of a setting: its options at the start, its scores and costs at the end.

A setting has one run of a tracker, from tuning to scores. Names of values are the same in every tracker; they are
`subject/...` where the pictures are compared with the subject, `prompt/...` where with the sentence, and begin with the
subject's name where several are tuned together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from quantbooth.evaluation.files import ABOUT, read_record, read_rows
from quantbooth.run.run import Run
from quantbooth.runtime.loggers import log_scores
from quantbooth.runtime.sweeps import in_sweep, sweep_name, swept
from quantbooth.runtime.versions import made
from quantbooth.runtime.wandb_artifacts import Item
from quantbooth.store.files import fingerprint
from quantbooth.store.manifest import MANIFEST, open_artifact
from quantbooth.store.store import CONFIG, joined_label, slugify

__all__ = ["KEYS", "Scored", "about", "item", "items", "scored", "track_scores", "tracker_name"]

KEYS = {
    "oracle_subject": "subject/oracle",
    "oracle_class": "subject/oracle_class",
    "local_clip_i": "subject/local_clip_i",
    "clip_i": "subject/clip_i",
    "local_dino": "subject/local_dino",
    "dino": "subject/dino",
    "subject_found": "subject/found",
    "oracle_prompt": "prompt/oracle",
    "clip_t": "prompt/clip_t",
    "prior_kept": "prompt/prior_kept",
    "diversity": "pictures/diversity",
}
"""Names of scores in trackers."""
COSTS = ("seconds", "peak_memory_bytes", "trainable", "file_bytes", "samples_seen")
LONGEST_TAG = 64
"""Characters that W&B allows."""
MOST = 25
"""Pictures of a subject in a table."""


@dataclass(frozen=True)
class Scored:
    """Scores and costs of a subject at a step, and its pictures with their scores where it is the last step."""

    step: int
    values: dict[str, float]
    pictures: tuple[tuple[Path, dict[str, Any]], ...] = ()


def scored(run: Run, folder: Path) -> Scored:
    """Return what trackers log of a folder of scores."""
    record, rows = read_record(folder), read_rows(folder)
    start = f"{record.subject}/" if len(run.subjects) > 1 else ""
    names = {score: f"{start}{KEYS.get(score, score)}" for score in rows.columns if score not in ABOUT}
    means = {name: float(rows[score].mean()) for score, name in names.items() if rows[score].notna().any()}
    if record.step < run.steps[-1]:
        return Scored(record.step, means)
    costs = {f"{start}cost/{key}": value for key in COSTS if isinstance(value := record.costs.get(key), int | float)}
    images, pictures = run.store.root / record.images, []
    for row in rows.head(MOST).to_dict("records"):
        about = {"subject": record.subject, "prompt": row["prompt"], "seed": row["noise_seed"]}
        pictures.append((images / row["file"], about | {name: row[score] for score, name in names.items()}))
    return Scored(record.step, means | costs, tuple(pictures))


def about(run: Run) -> dict[str, Any]:
    """Return who a setting is: name, group of its sweep, kind of work, tags, and all options as nested values."""
    tags = [*(one.name for one in run.subjects), run.served_method, run.weights_name, run.base_name]
    return {
        "name": ", ".join(swept()) or None,
        "group": sweep_name() if in_sweep() else None,
        "job_type": "tune",
        "tags": list(dict.fromkeys(tag[:LONGEST_TAG] for tag in tags)),
        "config": {**run.settings, "made": dict(made())},
    }


def track_scores(run: Run, folders: Sequence[Path]) -> None:
    """Log the scores of a setting to the tracker of its tuning; one that has them already gets nothing."""
    name = tracker_name([one.tuned.path.name for one in run.subjects])
    added = "".join([run.strength.name, *(f"-with-{slugify(lora.name)}" for lora in run.loras)])
    trackers = run.trackers(f"{name}{added}", partial(about, run), run.recipe.steps + 1)
    found = [scored(run, folder) for folder in folders]
    pictures = [row for one in found for row in one.pictures]
    log_scores(trackers, [(one.step, one.values) for one in found], pictures, items(run))


def items(run: Run) -> list[Item]:
    """Return the artifacts of a setting: what was used, then scale sets, images and scores in the order of making."""
    used = [*run.parents.values()]
    used += [one.prior for one in run.subjects if run.recipe.makes_class_pictures]
    made = [artifact for one in run.subjects for artifact in (one.tuned, *map(one.images, run.steps))]
    made += [one.scores(step) for one in run.subjects for step in run.steps]
    found = [item(each.require(), each.kind, used=True) for each in used]
    return [*found, *(item(each.require(), each.kind) for each in made)]


def item(folder: Path, kind: str, used: bool = False) -> Item:
    """Return a finished artifact as trackers log it."""
    manifest = open_artifact(folder, kind)
    about = {key: getattr(manifest, key) for key in ("fingerprint", "parents", "package_version")}
    small = [file for name in (MANIFEST, CONFIG) if (file := folder / name).is_file()]
    return Item(manifest.name, kind, folder, about, small, used)


def tracker_name(names: Sequence[str]) -> str:
    """Return the name of the tracker's run for artifacts that are tuned together."""
    several = f"-{fingerprint({'names': [*names]})[:6]}" if len(names) > 1 else ""
    return f"{joined_label(names)}{several}"
