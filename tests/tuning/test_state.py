"""The state of a run as tensors and JSON: nothing of any optimizer is lost, and what cannot be stored is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from quantbooth.runtime.errors import UserError
from quantbooth.store.documents import parsed_json
from quantbooth.store.store import Draft
from quantbooth.tuning.callbacks import Checkpoints
from quantbooth.tuning.checkpoints import Unfinished
from quantbooth.tuning.module import TuningModule
from quantbooth.tuning.optimizers import OPTIMIZERS
from quantbooth.tuning.state import pack, unpack


def steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        ((weight - 1) ** 2).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_goes_on_to_the_same_bits(name: str) -> None:
    through, resumed = (nn.Parameter(torch.arange(6.0).reshape(2, 3)) for _ in range(2))
    optimizer = OPTIMIZERS[name]([through], lr=0.01)
    steps(optimizer, through, 3)
    tensors: dict[str, Tensor] = {}
    record = json.loads(json.dumps(pack(optimizer.state_dict(), "optimizer", tensors)))
    with torch.no_grad():
        resumed.copy_(through)
    later = OPTIMIZERS[name]([resumed], lr=0.5)
    later.load_state_dict(unpack(record, tensors))
    steps(optimizer, through, 2)
    steps(later, resumed, 2)
    assert torch.equal(through, resumed)


def test_what_is_packed_comes_back_with_its_types() -> None:
    tensors: dict[str, Tensor] = {}
    state = {0: {"a": (1, 2.5, None), "b": [True, "x"], "lr": 1e-300}, "inf": float("inf"), "-inf": float("-inf")}
    record = json.dumps(pack(state, "s", tensors))
    assert unpack(parsed_json(record, "a record"), tensors) == state
    assert unpack(parsed_json(json.dumps(pack(float("nan"), "s", tensors)), "a record"), tensors) != state
    assert not tensors


def test_what_two_entries_share_is_stored_for_each_as_it_is_now(tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    shared = torch.arange(4.0)
    record = pack([shared, shared[1:]], "s", tensors)
    shared.add_(1)
    save_file(tensors, tmp_path / "state.safetensors")
    one, other = unpack(record, load_file(tmp_path / "state.safetensors"))
    assert (one.tolist(), other.tolist()) == ([0, 1, 2, 3], [1, 2, 3])


def test_what_is_neither_tensor_nor_number_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"^s\.0 must be a tensor, a number or a string, got Generator$"):
        pack([torch.Generator()], "s", {})


def test_tensors_whose_names_are_alike_stay_two() -> None:
    tensors: dict[str, Tensor] = {}
    state = {"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1), 1: torch.full((1,), 2.0), "1": torch.full((1,), 3.0)}
    found = unpack(pack(state, "s", tensors), tensors)
    assert [found["a"]["b"].item(), found["a.b"].item(), found[1].item(), found["1"].item()] == [0, 1, 2, 3]


def test_a_key_that_json_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^a key of s\.a must be a number or a string, got tuple$"):
        pack({"a": {(1, 2): 3}}, "s", {})


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="a state has no 'code'"):
        unpack({"code": "x"}, {})


class Killed(Exception):
    """Somebody ended the process."""


class Kill(Callback):
    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == 3:
            raise Killed


def test_a_run_that_was_ended_goes_on_to_the_same_bits_its_average_too(
    new_stage: Callable[..., TuningModule], fit: Callable[..., None], tmp_path: Path
) -> None:
    def learned(stage: TuningModule) -> list[Tensor]:
        assert stage.average is not None
        return [*(one.detach().clone() for one in stage.numbers), *stage.average.tensors.values()]

    made: dict[str, Any] = {"steps": 5, "ema_decay": 0.9}
    through, ended, resumed = (new_stage(**made) for _ in range(3))
    fit(through)
    part = Unfinished([Draft(tmp_path / "draft", tmp_path / "sets" / "mug-1", "1")]).part(0)
    with pytest.raises(Killed):
        fit(ended, [Checkpoints(part, ended, 0), Kill()])
    found = part.latest()
    assert found is not None and found.step == 2
    assert any(name.startswith("average.") for name in found.tensors)
    fit(resumed, [Checkpoints(part, resumed, 3600, found)])
    assert all(torch.equal(one, other) for one, other in zip(learned(resumed), learned(through), strict=True))


class Counts(Callback):
    """Counts the steps that it saw, and keeps what it is given."""

    def __init__(self, more: object = None) -> None:
        self.state: dict[str, Any] = {"steps": torch.zeros(1), "more": more}

    def on_train_batch_end(self, *_: object) -> None:
        self.state["steps"] = self.state["steps"] + 1

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = state_dict


def test_a_callback_goes_on_with_its_state(
    new_stage: Callable[..., TuningModule], fit: Callable[..., None], tmp_path: Path
) -> None:
    part = Unfinished([Draft(tmp_path / "draft", tmp_path / "sets" / "mug-1", "1")]).part(0)
    ended, resumed, counts = new_stage(steps=5), new_stage(steps=5), Counts()
    with pytest.raises(Killed):
        fit(ended, [Counts(("a", math.inf)), Checkpoints(part, ended, 0), Kill()])
    fit(resumed, [counts, Checkpoints(part, resumed, 3600, part.latest())])
    assert counts.state == {"steps": torch.tensor([5.0]), "more": ("a", math.inf)}


def test_a_callback_whose_state_no_checkpoint_can_hold_is_refused_before_the_first_step(
    new_stage: Callable[..., TuningModule], fit: Callable[..., None], tmp_path: Path
) -> None:
    stage, counts = new_stage(steps=1), Counts(more=Path("x"))
    part = Unfinished([Draft(tmp_path / "draft", tmp_path / "sets" / "mug-1", "1")]).part(0)
    with pytest.raises(
        UserError, match=r"^a callback's state cannot be in a checkpoint: callbacks\.Counts\.more must be"
    ):
        fit(stage, [counts, Checkpoints(part, stage, 0)])
    assert not counts.state["steps"].any()


@pytest.mark.parametrize("hook", ["on_save_checkpoint", "on_load_checkpoint"])
def test_a_callback_that_keeps_its_state_in_lightnings_checkpoints_is_refused(
    new_stage: Callable[..., TuningModule], fit: Callable[..., None], tmp_path: Path, hook: str
) -> None:
    stage = new_stage(steps=1)
    keeps = type("Keeps", (Callback,), {hook: lambda self, trainer, module, checkpoint: None})
    part = Unfinished([Draft(tmp_path / "draft", tmp_path / "sets" / "mug-1", "1")]).part(0)
    with pytest.raises(UserError, match=rf"^callbacks\.Keeps\.{hook} is never called: .*leave it out$"):
        fit(stage, [keeps(), Checkpoints(part, stage, 0)])


def test_the_scale_of_the_loss_is_restored(
    new_stage: Callable[..., TuningModule], fit: Callable[..., None], tmp_path: Path
) -> None:
    stage = new_stage(steps=2)
    scales: list[Any] = []
    part = Unfinished([Draft(tmp_path / "draft", tmp_path / "sets" / "mug-1", "1")]).part(0)

    class Scaled(Callback):
        """Stands for the loss scaler, which a CPU does not have."""

        def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
            plugin: Any = trainer.precision_plugin
            plugin.state_dict, plugin.load_state_dict = lambda: {"scale": 512.0}, scales.append

    fit(stage, [Scaled(), Checkpoints(part, stage, 0)])
    found = part.latest()
    assert found is not None
    again = new_stage(steps=2)
    fit(again, [Scaled(), Checkpoints(part, again, 3600, found)])
    assert scales == [{"scale": 512.0}]
