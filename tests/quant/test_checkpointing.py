"""Activation checkpointing: recomputation in the backward is exact, for all kinds of trainable parameters."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quantbooth.quant.format import Grid
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.scale_sets import Parts, attach_
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import KINDS


class Blocks(nn.Module):
    """Three blocks of both kinds that can be checkpointed; with relu, as silu's own backward depends on the layout."""

    def __init__(self, mode: bool | None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            float_layers = [nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 6)]
        self.layers = nn.ModuleList(
            KINDS[type(layer)].from_float(layer, MinMaxObserver(Grid(4))) for layer in float_layers
        )
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(0, x)
        x = self.block(1, x)
        return self.block(2, x.flatten(2).transpose(1, 2))

    def block(self, number: int, x: Tensor) -> Tensor:
        layer = self.layers[number]

        def body(x: Tensor) -> Tensor:
            y: Tensor = layer(x)
            return F.relu(y)

        if self.mode is None:
            return body(x)
        y: Tensor = checkpoint(body, x, use_reentrant=self.mode)
        return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("low", [0.5, 0.0])
@pytest.mark.parametrize("group_size", [None, 2])
def test_checkpointing_changes_no_bit(
    reentrant: bool, dtype: torch.dtype, autocast: bool, low: float, group_size: int | None
) -> None:
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(3)).to(dtype)

    def outcome(mode: bool | None) -> list[Tensor]:
        model, selection, leaf = Blocks(mode), SetSelection(), x.clone().requires_grad_()
        attach_(model, 2, selection, Parts(inputs=True, biases=True, group_size=group_size))
        for parameter in model.parameters():
            nn.init.uniform_(parameter, low, 1.5, generator=torch.Generator().manual_seed(4))
        selection.choose(torch.tensor([1, 0, 2]))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = model(leaf)
        y.float().square().sum().backward()
        return [y.detach(), *[tensor.grad for tensor in (leaf, *model.parameters()) if tensor.grad is not None]]

    plain, checkpointed = outcome(None), outcome(reentrant)
    assert len(plain) == len(checkpointed) == 2 + 3 * 3
    for one, other in zip(plain, checkpointed, strict=True):
        assert torch.equal(one, other)


def chosen_between(mode: bool | None, between: list[int], passes: int = 1) -> None:
    """A forward, another choice with a forward each further time, and the backward of the sum."""
    model, selection, losses = Blocks(mode), SetSelection(), []
    attach_(model, 2, selection)
    for number in range(passes):
        selection.choose(torch.tensor([1, 2] if number == 0 else between))
        losses.append(model(torch.ones(2, 4, 5, 5, requires_grad=True)).square().sum())
    selection.choose(torch.tensor(between))
    torch.stack(losses).sum().backward()


@pytest.mark.parametrize(("reentrant", "passes"), [(False, 1), (True, 1), (False, 2)])
def test_another_choice_before_the_backward_raises_where_activations_are_computed_again(
    reentrant: bool, passes: int
) -> None:
    with pytest.raises(RuntimeError, match="chosen"):
        chosen_between(reentrant, [2, 1], passes)
    chosen_between(reentrant, [1, 2], passes)
    chosen_between(None, [2, 1], passes)
