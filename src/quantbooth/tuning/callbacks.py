"""Callbacks of tuning: snapshots at chosen steps, checkpoints, and validation sample grids."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.router import SubjectsRoute
from quantbooth.diffusion.sampler import Sampler
from quantbooth.runtime.loggers import log_grid
from quantbooth.runtime.processes import ignore_signals
from quantbooth.runtime.signals import Deferred
from quantbooth.sampling.image_set import Request
from quantbooth.sampling.module import SamplingModule, image_jobs
from quantbooth.tuning.checkpoints import Checkpoint, Part
from quantbooth.tuning.module import TuningModule
from quantbooth.tuning.state import callbacks_state, read_state, restore_
from quantbooth.tuning.tuner import State, Tuner

__all__ = ["Checkpoints", "Follows", "Keep", "SampleGrids", "Snapshots"]

SHARE = 20
"""The least time between checkpoints, in times that writing one takes; every=0 writes one at every step."""

Keep = Callable[[int, State], Any]
"""Receives a snapshot: the step and the trained parameters."""

Kept = Callable[[], AbstractContextManager[None]]
"""Sets the parameters to those that are saved (the EMA, if used) inside its block."""


class Snapshots(Callback):
    """Passes the trained parameters to `keep` after each of the chosen steps, and stores none itself."""

    def __init__(self, tuner: Tuner, base: Base, steps: Sequence[int], keep: Keep, kept: Kept = nullcontext) -> None:
        self.tuner = tuner
        self.base = base
        self.steps = frozenset(steps)
        self.keep = keep
        self.kept = kept

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *at: Any) -> None:
        if trainer.global_step in self.steps and _ends_a_step(trainer, at[-1]):
            with self.kept():
                self.keep(trainer.global_step, self.tuner.state(self.base))


@runtime_checkable
class HasNumbers(Protocol):
    """What else a run that goes on needs."""

    @property
    def numbers(self) -> Mapping[str, Any]: ...


class Checkpoints(Callback):
    """Writes the state of a run every `every` seconds, and when the process gets a signal to end.

    A run with `found` goes on from there. The state is written when a step's values have been logged, at the beginning
    of the next one, where no gradients are accumulated.
    """

    def __init__(
        self,
        part: Part,
        module: TuningModule,
        every: float,
        found: Checkpoint | None = None,
        more: Mapping[str, HasNumbers] = MappingProxyType({}),
    ) -> None:
        self.part, self.module, self.every, self.found, self.more = part, module, every, found, more
        self._deferred = Deferred()
        self._due = math.inf

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        callbacks_state(trainer, {})  # refused now, not at the first checkpoint
        if self.found is not None:
            restore_(self.found, trainer, self.module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._due = time.monotonic() + self.every
        self._deferred.__enter__()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._deferred.noted is None and time.monotonic() < self._due:
            return
        if batch_idx % trainer.accumulate_grad_batches:
            return
        began = time.monotonic()
        for logger in trainer.loggers:
            logger.save()
        tensors, numbers = read_state(trainer, self.module)
        self.part.write(
            trainer.global_step, tensors, numbers | {name: dict(one.numbers) for name, one in self.more.items()}
        )
        self._deferred.raise_noted()
        now = time.monotonic()
        self._due = now + (max(self.every, SHARE * (now - began)) if self.every else 0)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._deferred.__exit__()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._deferred.__exit__()


class Follows(Callback):
    """Goes on from where the first process does, in a further process, which writes nothing and gets no signals."""

    def __init__(self, module: TuningModule, found: Checkpoint | None) -> None:
        self.module, self.found = module, found

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.found is not None:
            restore_(self.found, trainer, self.module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ignore_signals()  # Lightning has handlers of its own


class SampleGrids(Callback):
    """Generates the same requests from the same noise every N steps, as a PNG file and in the logger.

    `base` returns the base with all its networks for a grid, and they are freed afterwards: tuning itself needs neither
    autoencoder nor text encoder. `title` is the grid's name in the logger; `route`, if given, selects the sets of
    `subject` for the grid.
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
        self.base, self.sampler, self.jobs = base, sampler, image_jobs(requests, folder, subject)
        self.route = route
        self.every = every
        self.folder = folder
        self.kept = kept
        self.title = title

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step:  # a tracker that goes on may have dropped the grid of this step
            self.show(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *at: Any) -> None:
        if _ends_a_step(trainer, at[-1]):
            self.show(trainer, pl_module)

    def show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Generate the grid of this step, if it has one."""
        if self.every and trainer.global_step % self.every == 0:
            module = SamplingModule(self.base(), self.sampler, self.jobs, self.route).to(pl_module.device)
            with self.kept():
                images = module.render(self.jobs)
            row = (images.permute(2, 0, 3, 1).flatten(1, 2) * 255).round().byte().cpu().numpy()
            enlarged = np.kron(row, np.ones((4, 4, 1), dtype=np.uint8)) if row.shape[0] <= 64 else row
            self.folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(enlarged).save(self.folder / f"step-{trainer.global_step:06d}.png")
            log_grid(trainer.loggers, enlarged, trainer.global_step, self.title)


def _ends_a_step(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether the optimizer has stepped after this batch."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0
