"""Long trainings: a killed and resumed run equals an uninterrupted one exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from quantbooth.runtime.draws import generator_for, step_loader
from quantbooth_toyworld.pretraining import LAST, fit_resumably


class Line(LightningModule):
    """Learns a random line; what it sees is decided by (seed, step)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trained = nn.Linear(3, 1)
        self.steps_taken: list[int] = []

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def train_dataloader(self) -> object:
        return step_loader(10)

    def training_step(self, _step: int) -> Tensor:
        self.steps_taken.append(self.global_step)
        x = torch.randn(4, 3, generator=generator_for(0, self.global_step, "line"))
        return (self.trained(x) - x.sum(dim=1, keepdim=True)).square().mean()


class Killed(Callback):
    """Ends the process, so to speak, right after a checkpoint."""

    def __init__(self, step: int, folder: Path) -> None:
        self.step, self.folder = step, folder

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.folder / LAST)
            raise InterruptedError("killed")


def train(folder: Path, *callbacks: Callback) -> Line:
    line = Line()
    fit_resumably(line, 10, folder, average_from=2, callbacks=callbacks)
    return line


def weights(line: Line) -> list[Tensor]:
    return [parameter.detach() for parameter in line.parameters()]


def test_a_resumed_run_is_the_run_that_was_never_killed(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        train(tmp_path / "killed", Killed(6, tmp_path / "killed"))
    resumed = train(tmp_path / "killed")
    assert whole.steps_taken == list(range(10))
    assert resumed.steps_taken == [6, 7, 8, 9]
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    first, again = train(tmp_path), train(tmp_path)
    assert again.steps_taken == []
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(again), strict=True))


def test_it_ends_on_averaged_weights(tmp_path: Path) -> None:
    """They lag behind the newest ones."""
    newest: list[Tensor] = []

    class Noting(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
            newest[:] = [parameter.detach().clone() for parameter in pl_module.parameters()]

    averaged = weights(train(tmp_path, Noting()))
    assert not any(torch.equal(a, b) for a, b in zip(averaged, newest, strict=True))
