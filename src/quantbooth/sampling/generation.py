"""Drawing a set of pictures: those that a stopped run left are kept, and processes may share what is missing."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Trainer

from quantbooth.runtime.lightning import root_device
from quantbooth.sampling.image_set import Request
from quantbooth.sampling.module import SamplingModule

__all__ = ["generate_missing", "collect"]


def generate_missing(module: SamplingModule, trainer: Trainer, batch: int | str) -> list[bool]:
    """Draw what is missing; of each drawing, whether its picture was there already.

    Batches are the same whatever an earlier run left and however many processes share them, and so is every bit.
    """
    missing = set(module.missing)
    for folder in {job.path.parent for job in module.jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    loader = module.loader(batch, root_device(trainer), trainer.world_size)
    if len(loader):
        trainer.predict(module, loader, return_predictions=False)
    return [place not in missing for place in range(len(module.jobs))]


def collect(requests: Sequence[Request], folder: Path, destination: Path) -> None:
    """Copy the pictures of some requests from one folder to another."""
    for request in requests:
        shutil.copyfile(folder / request.file, destination / request.file)
