"""A product with a frozen quantized weight and a trainable gain per output channel.

    u = product(x, W),    W = (q - z) * s0        the base layer without its bias
    y = g * u + b                                 equals a weight dequantized with s = s0 * g

Because g acts on the *output*,

    dL/dg = sum(dL/dy * u)                        over all axes but the batch and the channel
    dL/dx = product^T(g * dL/dy, W)

so there is no weight gradient, x is not kept, and W is a transient: formed in forward, dropped, formed again in
backward. What autograd keeps is one activation, y, and that only where g learns: u = (y - b) / g. The division is safe
in float32 while |g| >= 0.1 (y carries an error of eps |y|, which it enlarges by 1 / |g|); below that, or in a half
precision, u itself is kept instead. y is often kept by the next operation anyway, u never is.

PEQA (Kim et al., NeurIPS 2023, arXiv 2305.14152) trains s = s0 + ds; g = 1 + ds / s0.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from quantbooth.quant.grid import dequantize
from quantbooth.quant.packing import unpack
from quantbooth.quant.products import Product

SAFE_GAIN = 0.1
FULL = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Packed:
    """How a weight of `shape` [out, ...] is stored: codes of `bits` bits, packed row by row."""

    bits: int
    shape: tuple[int, ...]

    def weight(
        self,
        codes: UInt8[Tensor, "out width"],
        scale: Float[Tensor, " out"],
        zero: UInt8[Tensor, " out"],
        dtype: torch.dtype,
    ) -> Float[Tensor, "out ..."]:
        """Return W = (q - z) * s0."""
        q = unpack(codes, self.bits, prod(self.shape[1:]))
        return dequantize(q, scale, zero, dtype).view(self.shape)


def gained_product(
    x: Float[Tensor, "b ..."],
    gain: Float[Tensor, "b out"] | None,
    bias: Float[Tensor, " out"] | None,
    codes: UInt8[Tensor, "out width"],
    scale: Float[Tensor, " out"],
    zero: UInt8[Tensor, " out"],
    packed: Packed,
    product: Product,
) -> Float[Tensor, "b ..."]:
    """Return y = g * product(x, W) + b in x's dtype (under autocast: in autocast's), sample i with row i of g.

    No gain means g = 1. Gradients flow to x and g only. Changing y in place before
    the backward may raise there.

    Raises:
        RuntimeError: when gains of half precision are to be trained: near 1 they cannot follow small steps.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(kind))
    keep_y = False
    if gain is not None and gain.requires_grad:
        if gain.dtype not in FULL:
            raise RuntimeError(f"gains must be float32 to be trained, got {gain.dtype}: cast the activations instead")
        keep_y = x.dtype in FULL and bool(gain.detach().abs().min() >= SAFE_GAIN)
    y: Tensor = _GainedProduct.apply(x, gain, bias, codes, scale, zero, packed, product, keep_y)
    return y


class _GainedProduct(torch.autograd.Function):
    """The formulas above, each written once. Autocast is off inside: every dtype is explicit."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor | None,
        bias: Tensor | None,
        codes: Tensor,
        scale: Tensor,
        zero: Tensor,
        packed: Packed,
        product: Product,
        keep_y: bool,
    ) -> Tensor:
        need_x, need_gain, *_ = ctx.needs_input_grad
        with torch.autocast(x.device.type, enabled=False):
            u = product.apply(x, packed.weight(codes, scale, zero, x.dtype))
            y = _gained(u, gain, bias, product.channel)
        ctx.packed, ctx.product, ctx.keep_y = packed, product, keep_y
        ctx.x_shape, ctx.dtype, ctx.y_stride = x.shape, x.dtype, y.stride()
        ctx.save_for_backward(
            gain if need_x or need_gain else None,
            bias if keep_y else None,
            (y if keep_y else u) if need_gain else None,
            *((codes, scale, zero) if need_x else (None, None, None)),
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        gain, bias, kept, codes, scale, zero = ctx.saved_tensors
        channel = ctx.product.channel
        dx = dgain = None
        if dy.stride() != ctx.y_stride:  # reentrant checkpointing changes the layout; sums must not change with it
            dy = dy.new_empty_strided(dy.shape, ctx.y_stride).copy_(dy)
        with torch.autocast(dy.device.type, enabled=False):
            if ctx.keep_y:
                gain_times_u = kept if bias is None else kept - _along(bias[None], channel, kept.ndim)
                dgain = _sum(dy, gain_times_u, channel) / gain
            elif kept is not None:
                dgain = _sum(dy, kept, channel)
            if codes is not None:
                du = dy if gain is None else (dy * _along(gain, channel, dy.ndim)).to(ctx.dtype)
                dx = ctx.product.transpose(du, ctx.packed.weight(codes, scale, zero, ctx.dtype), ctx.x_shape)
        return dx, dgain, *[None] * 7


def _gained(u: Tensor, gain: Tensor | None, bias: Tensor | None, channel: int) -> Tensor:
    """Return y = g * u + b in the widest of the dtypes, rounded once to u's; only without a gain may it be u itself."""
    b = None if bias is None else _along(bias[None], channel, u.ndim)
    if gain is None:
        return u if b is None else u.add_(b)
    g = _along(gain, channel, u.ndim)
    return (g * u if b is None else torch.addcmul(b, g, u)).to(u.dtype)


def _sum(dy: Tensor, u: Tensor, channel: int) -> Float[Tensor, "b out"]:
    """Return sum(dy * u) over all axes but the batch and the channel, in at least float32."""
    terms = dy * u.to(torch.promote_types(u.dtype, torch.float32))
    batch, out = dy.shape[0], dy.shape[channel]
    return terms.sum_to_size(_shape(batch, out, channel, dy.ndim)).reshape(batch, out)


def _along(values: Float[Tensor, "b out"], channel: int, ndim: int) -> Float[Tensor, "b ..."]:
    """View per-channel values so that they broadcast against y."""
    return values.view(_shape(values.shape[0], values.shape[1], channel, ndim))


def _shape(batch: int, out: int, channel: int, ndim: int) -> list[int]:
    shape = [batch] + [1] * (ndim - 1)
    shape[channel] = out
    return shape
