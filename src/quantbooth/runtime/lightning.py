"""Lightning's trainer and progress bar as every command uses them: refusals in one line, the work in words."""

from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

from quantbooth.runtime.errors import UserError

__all__ = ["Bar", "root_device", "shortened", "trainer"]


LABEL = 34
"""Characters of a bar's label, so that label, bar, count, time left and loss fit 80 columns in one line."""


class Bar(RichProgressBar):
    """Lightning's bar in one line: what is done, how far it is, the time left."""

    def __init__(self, what: str) -> None:
        super().__init__(leave=False)
        self.what = shortened(what, LABEL)

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        label = TextColumn("{task.description}", table_column=Column(no_wrap=True))
        return [label, BarColumn(bar_width=10), MofNCompleteColumn(), TimeRemainingColumn()]

    @property
    def predict_description(self) -> str:
        return self.what

    @property
    def test_description(self) -> str:
        return self.what

    def _get_train_description(self, current_epoch: int) -> str:
        return self.what

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        shown = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in shown.items() if name != "v_num"}


def shortened(text: str, width: int) -> str:
    """Return a text of at most `width` characters, its middle left out where it is longer."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def trainer(shared: bool = False, **settings: Any) -> Trainer:
    """A Lightning trainer.

    Work that may be divided is `shared` by `devices` processes, forked for it alone. Other work is done by one process,
    whatever `devices` is.

    Raises:
        UserError: when this machine or this Lightning cannot do what is asked.
    """
    devices = settings.get("devices", 1)
    many = isinstance(devices, int) and devices > 1
    if many and shared and settings.get("accelerator") != "cpu":
        raise UserError(f"processes share the drawing on CPUs only so far; trainer.devices must be 1, got {devices}")
    if many:
        settings |= {"strategy": "ddp_fork"} if shared else {"devices": 1}
    try:
        return Trainer(**settings)
    except MisconfigurationException as error:
        reason = str(error).rstrip(".!")
        raise UserError(
            f"the trainer cannot be had: {reason}; choose trainer=cpu, or mend trainer.* options"
        ) from error


def root_device(trainer: Trainer) -> torch.device:
    """Where a trainer puts what it runs, in this process."""
    device = trainer.strategy.root_device
    if not isinstance(device, torch.device):
        raise TypeError(f"a trainer must have one device in each process, got {device!r}")
    return device
