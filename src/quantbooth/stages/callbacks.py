"""What happens beside tuning: numbers kept at chosen steps, and sample grids to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from quantbooth.artifacts.image_set import Request
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.sampling import Sampler
from quantbooth.stages.loggers import log_grid
from quantbooth.stages.sampling import SamplingStage
from quantbooth.stages.tuners import State, Tuner
from quantbooth.stages.tuning import TuningStage

__all__ = ["SampleGrids", "Snapshots"]


class Snapshots(Callback):
    """Keeps what was learned after each of the chosen steps."""

    def __init__(self, tuner: Tuner, steps: Sequence[int]) -> None:
        self.tuner = tuner
        self.steps = frozenset(steps)
        self.states: dict[int, State] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step in self.steps and isinstance(pl_module, TuningStage):
            self.states[trainer.global_step] = self.tuner.state(pl_module.unet)


class SampleGrids(Callback):
    """Renders the same requests from the same noise every so many steps: one PNG each time, and in the tracker."""

    def __init__(self, base: Base, sampler: Sampler, requests: Sequence[Request], every: int, folder: Path) -> None:
        self.stage = SamplingStage(base, sampler, requests, folder)
        self.every = every
        self.folder = folder

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stage.to(pl_module.device)

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if self.every and trainer.global_step % self.every == 0:
            images = self.stage.render(self.stage.requests)
            row = (images.permute(2, 0, 3, 1).flatten(1, 2).clamp(0, 1) * 255).round().byte().cpu().numpy()
            enlarged = np.kron(row, np.ones((4, 4, 1), dtype=np.uint8)) if row.shape[0] <= 64 else row
            self.folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(enlarged).save(self.folder / f"step-{trainer.global_step:06d}.png")
            log_grid(trainer.logger, enlarged, trainer.global_step)
