"""Generation of an image set: pictures of an interrupted run are kept, and processes share the missing ones."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Trainer

from quantbooth.runtime.lightning import root_device
from quantbooth.sampling.image_set import Request
from quantbooth.sampling.module import SamplingModule

__all__ = ["generate_missing", "collect"]


def generate_missing(module: SamplingModule, trainer: Trainer, batch: int | str) -> list[bool]:
    """Generate the missing pictures; return for each job whether its picture existed.

    Batches do not depend on the pictures of an earlier run or the number of processes, so neither does any bit.
    """
    missing = set(module.missing)
    for folder in {job.path.parent for job in module.jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    loader = module.loader(batch, root_device(trainer), trainer.world_size)
    if len(loader):
        trainer.predict(module, loader, return_predictions=False)
    return [index not in missing for index in range(len(module.jobs))]


def collect(requests: Sequence[Request], folder: Path, destination: Path) -> None:
    """Copy the pictures of some requests from one folder to another."""
    for request in requests:
        shutil.copyfile(folder / request.file, destination / request.file)
