"""Triton's kernels as operators of PyTorch: what `torch.compile` is told of their results is so."""

from typing import Any

import pytest
import torch

from quantbooth.planning.live_bytes import LiveBytes, fake
from quantbooth.quant.format import Grid
from quantbooth.quant.kernels import operators
from quantbooth.quant.kernels.choice import EAGER, FAKE, use
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.packed_weight import Packed
from quantbooth.quant.per_channel import gained


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
        "gradients": (operators._gradients, (image, image.contiguous(), gain, gain, 1, True)),
        "gradients of gains alone": (operators._gradients, (gaps, gaps, gain, None, -1, False)),
        "select": (operators.select, (torch.rand(2, 7), choice, 1.0)),
        "select_gradient": (operators.select_gradient, (torch.rand(2, 7), choice, 2)),
    }


def test_on_fake_tensors_a_gain_costs_its_result_alone() -> None:
    """PyTorch's own kernels compute it in float32."""
    peaks = []
    for kernels in (FAKE, EAGER):
        with fake(), use(kernels), LiveBytes() as counter:
            u, gain = torch.empty(2, 50, 8, dtype=torch.bfloat16), torch.empty(2, 8)
            counter.restart()
            y = gained(u, gain, None, -1)
            assert (y.shape, y.dtype) == (u.shape, u.dtype)
            peaks.append(counter.peak - counter.live)
    assert peaks[0] == 0 < peaks[1]


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", _operands())
def test_operators_tell_what_they_give(name: str) -> None:
    operator, given = _operands()[name]
    torch.library.opcheck(operator, given)
