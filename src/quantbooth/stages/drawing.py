"""Drawing a set of pictures: those that a stopped run left are kept, and processes may share what is missing."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Trainer

from quantbooth.artifacts.image_set import Request
from quantbooth.artifacts.store import Draft
from quantbooth.stages.sampling import SamplingStage
from quantbooth.stages.trainers import root_device

__all__ = ["draw_missing", "draw_set", "gather"]


def draw_set(stage: SamplingStage, trainer: Trainer, batch: int | str, draft: Draft) -> None:
    """Draw what is missing in the stage's folder, then put all its pictures into the draft."""
    found = draw_missing(stage, trainer, batch)
    draft.measured.update(found_drawn=sum(found))
    gather(stage.requests, stage.folder, draft)


def draw_missing(stage: SamplingStage, trainer: Trainer, batch: int | str) -> list[bool]:
    """Draw what is missing; of each request, whether its picture was there already.

    Batches are the same whatever an earlier run left and however many processes share them, and so is every bit.
    """
    places, missing = range(len(stage.requests)), set(stage.missing)
    for folder in {stage.path(place).parent for place in places}:
        folder.mkdir(parents=True, exist_ok=True)
    loader = stage.loader(batch, root_device(trainer), trainer.world_size)
    if len(loader):
        trainer.predict(stage, loader, return_predictions=False)
    return [place not in missing for place in places]


def gather(requests: Sequence[Request], folder: Path, draft: Draft) -> None:
    """Put pictures that lie in a folder into the draft."""
    for request in requests:
        shutil.copyfile(folder / request.file, draft.path / request.file)
