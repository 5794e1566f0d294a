"""What happens beside tuning: numbers kept at chosen steps, and sample grids to look at."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.router import SubjectsRoute
from quantbooth.diffusion.sampler import Sampler
from quantbooth.runtime.loggers import log_grid
from quantbooth.sampling.image_set import Request
from quantbooth.sampling.module import SamplingStage, drawings
from quantbooth.tuning.tuners import State, Tuner

__all__ = ["Keep", "SampleGrids", "Snapshots"]

Keep = Callable[[int, State], Any]
"""What becomes of a snapshot: it is told the step and what was learned."""

Kept = Callable[[], AbstractContextManager[None]]
"""Puts the numbers that are kept into the model for a while, where they are not those of the last step."""


class Snapshots(Callback):
    """Hands on what was learned after each of the chosen steps, and holds none of it."""

    def __init__(self, tuner: Tuner, base: Base, steps: Sequence[int], keep: Keep, kept: Kept = nullcontext) -> None:
        self.tuner = tuner
        self.base = base
        self.steps = frozenset(steps)
        self.keep = keep
        self.kept = kept

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step in self.steps:
            with self.kept():
                self.keep(trainer.global_step, self.tuner.state(self.base))


class SampleGrids(Callback):
    """Renders the same requests from the same noise every so many steps: one PNG each time, and in the tracker.

    `base` gives the base with all its networks when a grid is drawn, and it is let go afterwards: tuning itself needs
    neither autoencoder nor text encoder. `title` is the grid's name in the tracker; `route`, where there is one, serves
    the grid by the sets of `subject`.
    """

    def __init__(
        self,
        base: Callable[[], Base],
        sampler: Sampler,
        requests: Sequence[Request],
        every: int,
        folder: Path,
        kept: Kept = nullcontext,
        title: str = "samples",
        route: SubjectsRoute | None = None,
        subject: int = 0,
    ) -> None:
        self.base, self.sampler, self.drawings = base, sampler, drawings(requests, folder, subject)
        self.route = route
        self.every = every
        self.folder = folder
        self.kept = kept
        self.title = title

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if self.every and trainer.global_step % self.every == 0:
            stage = SamplingStage(self.base(), self.sampler, self.drawings, self.route).to(pl_module.device)
            with self.kept():
                images = stage.render(self.drawings)
            row = (images.permute(2, 0, 3, 1).flatten(1, 2).clamp(0, 1) * 255).round().byte().cpu().numpy()
            enlarged = np.kron(row, np.ones((4, 4, 1), dtype=np.uint8)) if row.shape[0] <= 64 else row
            self.folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(enlarged).save(self.folder / f"step-{trainer.global_step:06d}.png")
            log_grid(trainer.logger, enlarged, trainer.global_step, self.title)
