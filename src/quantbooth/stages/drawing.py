"""Drawing a set of pictures: those that a stopped run left are kept, and processes may share what is missing."""

import shutil

from lightning.pytorch import Trainer

from quantbooth.artifacts.store import Draft
from quantbooth.stages.sampling import SamplingStage
from quantbooth.stages.trainers import root_device

__all__ = ["draw_set"]


def draw_set(stage: SamplingStage, trainer: Trainer, batch: int | str, draft: Draft) -> None:
    """Draw what is missing in the stage's folder, then put all its pictures into the draft.

    Batches are the same whatever an earlier run left and however many processes share them, and so is every bit.
    """
    stage.folder.mkdir(parents=True, exist_ok=True)
    draft.measured.update(found_drawn=len(stage.requests) - len(stage.missing))
    loader = stage.loader(batch, root_device(trainer), trainer.world_size)
    if len(loader):
        trainer.predict(stage, loader, return_predictions=False)
    for request in stage.requests:
        shutil.copyfile(stage.folder / request.file, draft.path / request.file)
