"""Lightning's trainer for all commands, its progress bar, and plain loops on its device and in its precision."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from torch import nn

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.processes import Meeting, Share
from quantbooth.runtime.progress import LoopBar, progress, say_once

__all__ = ["Bar", "Loop", "root_device", "trainer"]

Item = TypeVar("Item")
Result = TypeVar("Result")
LIGHTNINGS = "PL_TRAINER_"
"""Beginning of the environment variables that Lightning takes as arguments of its trainer."""
PAUSE = 0.5
"""Seconds between two readings of logged figures: on a GPU a reading waits for the step to end."""


@dataclass(frozen=True)
class Loop:
    """A plain loop that computes like Lightning's predict loop, without a LightningModule.

    Attributes:
        device: the device.
        precision: Lightning's precision plugin.
    """

    device: torch.device
    precision: Precision

    @classmethod
    def like(cls, trainer: Trainer) -> "Loop":
        """Return a loop on the device and in the precision of a trainer."""
        return cls(root_device(trainer), trainer.precision_plugin)

    def place(self, *modules: nn.Module) -> None:
        """Move modules to the device, in evaluation mode; with precision=bf16-true and similar also to that dtype."""
        for module in modules:
            self.precision.convert_module(module).to(self.device).eval()

    def map(self, step: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
        """Return `step(item)` of each item, without gradients, in the loop's precision; `what` labels the bar."""
        results = []
        for item in progress(items, what):
            # no_grad, not inference_mode: the results may be inputs of training
            with torch.no_grad(), self.precision.forward_context():
                results.append(step(item))
        return results


class Bar(ProgressBar):
    """The bar of `runtime.progress` for a trainer, labelled `what`, with the values that its module logs.

    `log(..., prog_bar=True)` is not needed: Lightning reads such a value at every step, and waits for a GPU.
    """

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self._shown: LoopBar | None = None
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer.max_steps * trainer.accumulate_grad_batches)
        if self._shown is not None:  # a run that goes on
            self._shown.advance(trainer.global_step * trainer.accumulate_grad_batches)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(sum(trainer.num_test_batches))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(sum(trainer.num_predict_batches))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._advance(trainer, pl_module)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._advance(trainer, pl_module)

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._advance(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()

    def _start(self, total: float) -> None:
        self._stop()
        if self._enabled:
            self._shown, self._looked = LoopBar(self.what, int(total) if math.isfinite(total) else None), -PAUSE
            self._shown.__enter__()

    def _advance(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._shown is None:
            return
        self._shown.advance()
        if self._shown.terminal and time.monotonic() - self._looked > PAUSE:
            self._looked = time.monotonic()
            figures = trainer.callback_metrics.items()
            self._shown.show(" ".join(f"{name.rsplit('/', 1)[-1]} {float(value):.3g}" for name, value in figures))

    def _stop(self) -> None:
        if self._shown is not None:
            self._shown.__exit__()
            self._shown = None


class NoForeignCheckpoints(_CheckpointConnector):
    """Finds no checkpoint of another run; Lightning does in a Slurm job, whatever its plugins are."""

    @property
    def _hpc_resume_path(self) -> str | None:
        return None


def trainer(shared: bool = False, share: Share | None = None, **settings: Any) -> Trainer:
    """Return a Lightning trainer.

    `shared` work is divided among `devices` processes, forked for it on CPUs. A training of several processes has a
    `share` in each. Other work is done by one process, also as a task of a Slurm job: Lightning's requeueing there
    would take any `hpc_ckpt_*.ckpt` in the working directory for its own.

    Raises:
        UserError: when this machine or this Lightning does not support the options, or the environment has others.
    """
    if unseen := [name for name in os.environ if name.startswith(LIGHTNINGS)]:
        raise UserError(
            f"{unseen[0]} in the environment would change the trainer unseen; unset it, use trainer.* options"
        )
    settings |= _divided(settings, shared, share)
    if not settings.get("enable_progress_bar", True):
        settings["callbacks"] = [one for one in settings.get("callbacks", []) if not isinstance(one, ProgressBar)]
    here = LightningEnvironment() if share is None else Meeting(share)
    here.set_global_rank(0 if share is None else share.rank)
    try:
        made = Trainer(**settings, plugins=[here])
        made._checkpoint_connector = NoForeignCheckpoints(made)
    except MisconfigurationException as error:
        reason = str(error).rstrip(".!")
        raise UserError(
            f"cannot create the trainer: {reason}; choose trainer=cpu, or change trainer.* options"
        ) from error
    if (device := root_device(made)).type == "cuda":
        torch.cuda.set_device(device)  # of graphs, of peak memory, and of the question below; it is the first otherwise
        if made.precision.startswith("bf16"):
            _require_bfloat16()
    if made.precision != (asked := settings.get("precision", made.precision)):
        raise UserError(f"trainer.precision={asked} is {made.precision} on this device; choose that, or trainer=gpu")
    return made


def _divided(settings: Mapping[str, Any], shared: bool, share: Share | None) -> dict[str, Any]:
    """Return how work is divided among processes.

    Raises:
        UserError: for more GPUs than there are.
    """
    if share is not None:  # module.py: every process draws the joint batch, and takes its rows
        strategy = DDPStrategy(broadcast_buffers=False, init_sync=False)
        return {"strategy": strategy, "devices": share.count, "use_distributed_sampler": False}
    devices = settings.get("devices", 1)
    if not isinstance(devices, int) or devices == 1:
        return {}
    if settings.get("accelerator") == "cpu":
        return {"strategy": "ddp_fork"} if shared else {"devices": 1}
    if devices > (found := torch.cuda.device_count()):
        raise UserError(f"trainer.devices={devices} needs as many CUDA devices, found {found}; choose fewer")
    if shared:
        say_once(f"trainer.devices={devices}: several GPUs share tuning alone; one draws pictures and scores them")
    return {"devices": 1}


def _require_bfloat16() -> None:
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(
            f"{torch.cuda.get_device_name()} computes no bfloat16; choose trainer.precision=16-mixed, or 32-true"
        )


def root_device(trainer: Trainer) -> torch.device:
    """Return the device of a trainer in this process."""
    device = trainer.strategy.root_device
    if not isinstance(device, torch.device):
        raise TypeError(f"a trainer must have one device in each process, got {device!r}")
    return device
