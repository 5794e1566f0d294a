"""Triton's kernels as operators of PyTorch: what `torch.compile` is told of their results is so."""

from typing import Any

import pytest
import torch

from quantbooth.quant.format import Grid
from quantbooth.quant.kernels import operators
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.packed_weight import Packed


def _operands() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    packed = Packed(3, (5, 8, 1, 1), (3, 5))
    scale, zero = packed.fit(torch.randn(packed.shape), MinMaxObserver(Grid(3)))
    codes = packed.store(torch.randint(0, 8, packed.shape, dtype=torch.uint8))
    image = torch.randn(2, 5, 4, 3).contiguous(memory_format=torch.channels_last)
    gaps, gain, choice = torch.randn(2, 3, 10)[..., ::2], torch.rand(2, 5), torch.tensor([0, 2])
    return {
        "dequantize": (operators.dequantize, (codes, scale, zero.byte(), 3, [3, 5], [1, 1], torch.float16)),
        "affine": (operators.affine, (image, gain, torch.rand(1, 5), 1)),
        "affine with gaps": (operators.affine, (gaps, gain, None, -1)),
        "gradients": (operators._gradients, (image, image.contiguous(), gain, 1, True)),
        "gradients of gains alone": (operators._gradients, (gaps, gaps, gain, -1, False)),
        "select": (operators.select, (torch.rand(2, 7), choice, 1.0)),
        "select_gradient": (operators.select_gradient, (torch.rand(2, 7), choice, 2)),
    }


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", _operands())
def test_operators_tell_what_they_give(name: str) -> None:
    operator, given = _operands()[name]
    torch.library.opcheck(operator, given)
