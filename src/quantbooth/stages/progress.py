"""The progress bar: says in words what is going on."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

__all__ = ["Bar"]


class Bar(RichProgressBar):
    """Lightning's bar with a sentence of ours in place of "Predicting" or "Epoch 0"."""

    def __init__(self, what: str) -> None:
        super().__init__(leave=False)
        self.what = what

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
