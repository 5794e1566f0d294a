"""Loops and bars of trainers: a plain loop calculates as Lightning's predict loop does, whatever the precision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from omegaconf import DictConfig
from torch import Tensor, nn

from quantbooth.run.run import Run
from quantbooth.runtime.draws import batch_loader, batches
from quantbooth.runtime.lightning import Bar, Loop

QUIET: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
X = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))


class Product(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.Sequential(nn.Linear(16, 8), nn.Dropout())
        self.found: list[Tensor] = []

    def predict_step(self, places: list[int]) -> None:
        self.found.append(self.layer(X[places].to(next(self.parameters()))))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_a_loop_calculates_as_lightnings_own(precision: Any) -> None:
    trainer = Trainer(accelerator="cpu", precision=precision, enable_progress_bar=False, **QUIET)
    theirs, ours = Product(), Product()
    trainer.predict(theirs, batch_loader(batches(6, 4)), return_predictions=False)
    loop = Loop.like(trainer)
    loop.place(ours)
    loop.map(ours.predict_step, batches(6, 4), "multiplying")
    expected = {"32-true": torch.float32, "64-true": torch.float64}.get(precision, torch.bfloat16)
    assert [found.dtype for found in ours.found] == [expected] * 2
    assert all(torch.equal(one, other) for one, other in zip(theirs.found, ours.found, strict=True))


def test_the_loops_of_a_run_have_its_precision(compose: Callable[..., DictConfig], tmp_path: Path) -> None:
    for precision in ("32-true", "bf16-mixed"):
        loop = Run(compose(tmp_path, "base=folder", "base.resolution=32", f"trainer.precision={precision}")).loop
        (found,) = loop.map(lambda x: x @ x.T, [X], "multiplying")
        assert found.dtype == (torch.bfloat16 if precision == "bf16-mixed" else torch.float32)
        assert loop.device == torch.device("cpu")


def test_a_loop_returns_what_each_step_made_without_gradients(loop: Loop) -> None:
    weight = torch.ones(2, requires_grad=True)
    found = loop.map(lambda k: weight * k, range(3), "multiplying")
    assert [each.tolist() for each in found] == [[0, 0], [1, 1], [2, 2]]
    assert not any(each.requires_grad or each.is_inference() for each in found)
    assert (weight * 2).requires_grad


def test_an_error_of_a_step_leaves_the_loop(loop: Loop) -> None:
    with pytest.raises(ZeroDivisionError):
        loop.map(lambda k: 1 / k, [1, 0], "dividing")
    assert torch.is_grad_enabled()


class Fit(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def training_step(self, _places: list[int]) -> Tensor:
        self.log("tune/loss", self.weight, prog_bar=True)
        return self.weight

    def test_step(self, places: list[int]) -> None: ...

    def predict_step(self, _places: list[int]) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("verb", ["fit", "test", "predict"])
@pytest.mark.filterwarnings("ignore:.*:")
def test_a_bar_counts_the_batches_of_every_loop(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float | None, float, str]] = []
    bar = Bar("counting")
    advance = Bar._advance

    def noted(self: Bar, trainer: Trainer, stage: LightningModule) -> None:
        advance(self, trainer, stage)
        assert self._shown is not None
        task = self._shown.bar.tasks[0]
        seen.append((task.description, task.total, task.completed, task.fields.get("figures", "")))

    monkeypatch.setattr(Bar, "_advance", noted)
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    trainer = Trainer(accelerator="cpu", callbacks=[bar], max_steps=3, max_epochs=-1, **QUIET)
    getattr(trainer, verb)(Fit(), batch_loader(batches(6, 2)))
    figures = "loss 1" if verb == "fit" else ""
    assert seen == [("counting", 3, done, figures) for done in (1, 2, 3)]
    assert bar._shown is None
