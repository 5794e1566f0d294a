"""Products in pieces equal the whole product: values and transpose, for any number of pieces."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quantbooth.quant import ops
from quantbooth.quant.format import Grid, quantize
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.ops import Conv2dProduct, LinearProduct, PackedProduct, Product
from quantbooth.quant.packed_weight import Packed

PLAIN = Conv2dProduct((2, 1), (1, 1), (1, 1), 1)
GROUPS = Conv2dProduct((1, 1), (0, 1), (1, 1), 2)
FORMS: dict[str, tuple[Product, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "linear": (LinearProduct(), (7, 10), (), (3, 5, 10)),
    "linear, split": (LinearProduct(), (7, 10), (4, 6), (3, 5, 10)),
    "convolution": (PLAIN, (6, 4, 3, 3), (), (2, 4, 9, 8)),
    "convolution, split": (PLAIN, (6, 4, 3, 3), (1, 3), (2, 4, 9, 8)),
    "groups": (GROUPS, (6, 4, 3, 3), (), (2, 8, 9, 8)),
}


def _made(form: str, bits: int, generator: torch.Generator) -> tuple[PackedProduct, Tensor, Tensor]:
    """The product, its weight as float64, and an x."""
    product, shape, split, x_shape = FORMS[form]
    packed, drawn = Packed(bits, shape, split), torch.randn(shape, generator=generator)
    scale, zero = packed.fit(drawn, MinMaxObserver(Grid(bits)))
    codes = quantize(drawn, packed.spread(scale), packed.spread(zero), Grid(bits))
    stored = (packed.store(codes), scale, zero.to(torch.uint8))
    weight = packed.weight(*stored, torch.float64)
    return PackedProduct(packed, product, *stored), weight, torch.randn(x_shape, generator=generator).double()


def _whole(product: Product, x: Tensor, weight: Tensor) -> Tensor:
    if isinstance(product, Conv2dProduct):
        return F.conv2d(x, weight, None, product.stride, product.padding, product.dilation, product.groups)
    return F.linear(x, weight)


@pytest.mark.parametrize("limit", [1, 40, 100, 1 << 21])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("form", FORMS)
def test_pieces_give_product_and_transpose_of_the_whole(
    form: str, bits: int, limit: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "PIECE", limit)
    made, weight, x = _made(form, bits, generator)
    x.requires_grad_()
    y = _whole(made.product, x, weight)
    dy = torch.randn(y.shape, generator=generator).double()
    (dx,) = torch.autograd.grad(y, x, dy)
    torch.testing.assert_close(made.apply(x.detach()), y.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(made.transpose(dy, x.shape), dx, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("limit", "sizes"), [(1, [10] * 7), (29, [20, 20, 20, 10]), (1000, [70])])
def test_no_piece_is_larger_than_the_limit_or_one_channel(
    limit: int, sizes: list[int], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    formed: list[int] = []
    form = Packed.weight

    def counted(self: Packed, codes: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype) -> Tensor:
        weight = form(self, codes, scale, zero, dtype)
        formed.append(weight.numel())
        return weight

    made, _, x = _made("linear", 4, generator)
    monkeypatch.setattr(ops, "PIECE", limit)
    monkeypatch.setattr(Packed, "weight", counted)
    made.apply(x)
    assert formed == sizes


def test_a_grouped_convolution_is_one_piece(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _, x = _made("groups", 4, generator)
    monkeypatch.setattr(ops, "PIECE", 1)
    (piece,) = made.pieces(x.dtype)
    assert piece[0] == 0 and piece[1].shape == (6, 4, 3, 3)
