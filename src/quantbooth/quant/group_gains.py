"""Products with a gain per output channel and group of input channels: y = sum_k g_k * (W_k x_k) + b.

The inputs are cut into n groups of `group_size` channels, x_k and the columns W_k of W are those of group k, and

    u_k = product(x_k, W_k)        y = sum_k g_k * u_k + b

which equals a weight dequantized with s = g[o, k(i)] * s0: trained group-wise scales.
Gains multiply activations, so as in `ops` there is no weight gradient:

    dL/dg_k = sum(dL/dy * u_k)             over all axes but the batch and the channel
    dL/dx_k = product^T(g_k * dL/dy, W_k)

Autograd saves x, and u_k is computed again in the backward: a product more, and no n activations. A set's gains of a
layer are one row, [g_1, ..., g_n], each of the size of the output.
"""

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float, Real, UInt8
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from quantbooth.quant.ops import PackedProduct, Product
from quantbooth.quant.packed_weight import Packed
from quantbooth.quant.per_channel import along, gained, in_layout, require_full, summed
from quantbooth.runtime.errors import UserError

__all__ = ["groups_of", "require_groups", "grouped_product"]


def groups_of(layer: nn.Module, group_size: int | None) -> int:
    """Return the number of groups of a layer's inputs, float or quantized; 1 where the size does not divide them.

    A convolution with groups of its own is one group.
    """
    if group_size is None or not _sees_all(layer) or _inputs(layer) % group_size:
        return 1
    return _inputs(layer) // group_size


def require_groups(layers: Iterable[tuple[str, nn.Module]], group_size: int) -> list[str]:
    """Return the names of the layers whose inputs are no groups of this size, each of which keeps one gain per output.

    Raises:
        UserError: when no layer has two groups or more.
    """
    layers = list(layers)
    found = {name: groups_of(layer, group_size) for name, layer in layers}
    if max(found.values(), default=1) < 2:
        raise UserError(
            f"tuner.group_size must divide the inputs of a quantized layer into two groups or more, got {group_size}; "
            "choose a smaller power of two, or null for one gain per output channel"
        )
    return [
        name for name, layer in layers if found[name] == 1 and (_inputs(layer) != group_size or not _sees_all(layer))
    ]


def grouped_product(
    x: Float[Tensor, "b ..."],
    gain_in: Float[Tensor, "b in"] | None,
    gains: Float[Tensor, "b groups_out"],
    bias: Float[Tensor, "#b out"] | None,
    codes: UInt8[Tensor, "out width"],
    scale: Float[Tensor, "*parts out"],
    zero: Real[Tensor, "*parts out"],
    packed: Packed,
    product: Product,
) -> Float[Tensor, "b ..."]:
    """Return y = sum_k g_k * product((g_in * x)_k, W_k) + b in x's dtype (autocast's under autocast).

    `gains` has the gains of all groups, one group after another. They sum in float32, so gains of 1 give the base up to
    rounding.

    Raises:
        RuntimeError: when a trainable parameter has half precision, as for `gained_product`.
    """
    require_full(gain_in, gains, bias)
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(kind))
    scaled = x if gain_in is None else gained(x, gain_in, None, product.channel)
    y: Tensor = _GroupedProduct.apply(scaled, gains, bias, codes, scale, zero, packed, product)
    return y


class _GroupedProduct(torch.autograd.Function):
    """The formulas above; autocast is off inside, so every dtype is explicit."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        g: Tensor,
        b: Tensor | None,
        codes: Tensor,
        scale: Tensor,
        zero: Tensor,
        packed: Packed,
        product: Product,
    ) -> Tensor:
        need_x, need_g, *_ = ctx.needs_input_grad
        weight, parts = PackedProduct(packed, product, codes, scale, zero), []
        with torch.autocast(x.device.type, enabled=False):
            for start, piece in weight.pieces(x.dtype):
                terms = (
                    along(g_k, product.channel, x.ndim) * product.apply(x.narrow(product.channel, *inputs), w_k)
                    for g_k, w_k, inputs in _groups(g, start, piece, packed)
                )
                parts.append(reduce(Tensor.add_, terms))
            y = parts[0] if len(parts) == 1 else torch.cat(parts, product.channel)
            y = (y if b is None else y.add_(along(b, product.channel, y.ndim))).to(x.dtype)
        ctx.packed, ctx.product, ctx.x_shape, ctx.y_stride = packed, product, x.shape, y.stride()
        ctx.bias_rows = 0 if b is None else len(b)
        needed = need_x or need_g
        ctx.save_for_backward(x if need_g else None, *((g, codes, scale, zero) if needed else (None, None, None, None)))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, g, codes, scale, zero = ctx.saved_tensors
        need_x, need_g, need_b, *_ = ctx.needs_input_grad
        packed, product = ctx.packed, ctx.product
        dy = in_layout(dy, ctx.y_stride)
        with torch.autocast(dy.device.type, enabled=False):
            db = summed(dy, None, product.channel, ctx.bias_rows) if need_b else None
            dx = dy.new_zeros(ctx.x_shape) if need_x else None
            dg = torch.zeros_like(g) if need_g else None
            if g is not None:
                weight = PackedProduct(packed, product, codes, scale, zero)
                for start, piece in weight.pieces(dy.dtype):
                    _gradients_(dx, dg, x, g, dy.narrow(product.channel, start, len(piece)), start, piece, ctx)
        return dx, dg, db, *[None] * 5


def _gradients_(
    dx: Tensor | None, dg: Tensor | None, x: Tensor | None, g: Tensor, dy: Tensor, start: int, piece: Tensor, ctx: Any
) -> None:
    """Add what the output channels of one piece of W give to dx, and write their part of dg."""
    packed, product, shape = ctx.packed, ctx.product, list(ctx.x_shape)
    for k, (g_k, w_k, inputs) in enumerate(_groups(g, start, piece, packed)):
        if dx is not None:
            _, shape[product.channel] = inputs
            du = (along(g_k, product.channel, dy.ndim) * dy).to(dy.dtype)
            dx.narrow(product.channel, *inputs).add_(product.transpose(du, w_k, shape))
        if dg is not None and x is not None:
            u_k, first = product.apply(x.narrow(product.channel, *inputs), w_k), k * packed.shape[0] + start
            dg[:, first : first + len(piece)] = summed(dy, u_k, product.channel)


def _groups(g: Tensor, start: int, piece: Tensor, packed: Packed) -> Iterator[tuple[Tensor, Tensor, tuple[int, int]]]:
    """Yield each group's gains and weight, of the output channels of a piece of W, its first input and its inputs."""
    out, inputs = packed.shape[:2]
    size = inputs * out // g.shape[1]
    for k in range(inputs // size):
        place = k * size, size
        yield g[:, k * out + start : k * out + start + len(piece)], piece.narrow(1, *place), place


def _inputs(layer: nn.Module) -> int:
    shape: tuple[int, ...] = getattr(layer, "shape", None) or tuple(layer.get_parameter("weight").shape)
    return shape[1]


def _sees_all(layer: nn.Module) -> bool:
    """Return whether every output channel reads all inputs."""
    product: Product | None = getattr(layer, "product", None)
    return getattr(layer, "groups", 1) == 1 if product is None else product.by_channel
