"""The state of a run as tensors and JSON: nothing of any optimizer is lost, and what cannot be stored is refused."""

import json

import pytest
import torch
from torch import Tensor, nn

from quantbooth.tuning.optimizers import OPTIMIZERS
from quantbooth.tuning.state import pack, unpack

SPECIAL = {"sparseadam": "needs sparse gradients", "muon": "needs matrices only"}


def steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter, count: int) -> None:
    def closure() -> float:
        optimizer.zero_grad()
        loss = ((weight - 1) ** 2).sum()
        loss.backward()
        return loss  # type: ignore[return-value]  # what LBFGS converts itself

    for _ in range(count):
        optimizer.step(closure)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - SPECIAL.keys()))
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
    state = {0: {"a": (1, 2.5, None), "b": [True, "x"], "lr": 1e-300}, "inf": float("inf")}
    assert unpack(json.loads(json.dumps(pack(state, "s", tensors))), tensors) == state
    assert not tensors


def test_what_is_neither_tensor_nor_number_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"^s\.0 must be a tensor, a number or a string, got Generator$"):
        pack([torch.Generator()], "s", {})


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="a state has no 'code'"):
        unpack({"code": "x"}, {})
