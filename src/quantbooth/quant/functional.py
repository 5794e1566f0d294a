"""A product with a frozen quantized weight and trainable gains on its input and output channels.

    y = g_out * (W (g_in * x)) + b,    W = (q - z) * s0

step by step, u being the base layer without its bias where g_in = 1:

    x' = g_in * x        u = product(x', W)        y = g_out * u + b

which equals a weight dequantized with s = g_out * s0 * g_in. Because gains act on *activations*,

    dL/db     = sum(dL/dy)                         over all axes but the batch and the channel
    dL/dg_out = sum(dL/dy * u)
    dL/dx'    = product^T(g_out * dL/dy, W)
    dL/dg_in  = sum(dL/dx' * x)
    dL/dx     = g_in * dL/dx'

so there is no weight gradient and W is a transient: formed in forward, dropped, formed again in backward. What autograd
keeps is y where g_out learns (or u, see `per_channel`), and x where g_in learns; b and a frozen gain cost nothing.

PEQA (Kim et al., NeurIPS 2023, arXiv 2305.14152) trains s = s0 + ds; g_out = 1 + ds / s0. Gains of both sides are the
multi-channel-wise scale update of TuneQDM (arXiv 2401.04339 v2), W = s_out (q - z) s_in with g_in = s_in.
"""

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from quantbooth.quant.packed_weight import Packed
from quantbooth.quant.per_channel import affine, gain_gradient, in_layout, keeps_output, require_full, summed, times
from quantbooth.quant.piecewise import PackedProduct
from quantbooth.quant.products import Product


def gained_product(
    x: Float[Tensor, "b ..."],
    gain_in: Float[Tensor, "b in"] | None,
    gain_out: Float[Tensor, "b out"] | None,
    bias: Float[Tensor, "#b out"] | None,
    codes: UInt8[Tensor, "out width"],
    scale: Float[Tensor, "*parts out"],
    zero: UInt8[Tensor, "*parts out"],
    packed: Packed,
    product: Product,
) -> Float[Tensor, "b ..."]:
    """Return y = g_out * product(g_in * x, W) + b in x's dtype (under autocast: in autocast's), sample i with row i.

    No gain means 1; a bias may be one row for all samples. Gradients flow to x, the gains and b only. Changing x or y
    in place before the backward may raise there.

    Raises:
        RuntimeError: when numbers of half precision are to be trained: near 1 they cannot follow small steps.
    """
    require_full(gain_in, gain_out, bias)
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(kind))
    keep_y = keeps_output(gain_out, x.dtype)
    y: Tensor = _GainedProduct.apply(x, gain_in, gain_out, bias, codes, scale, zero, packed, product, keep_y)
    return y


class _GainedProduct(torch.autograd.Function):
    """The formulas above, each written once. Autocast is off inside: every dtype is explicit."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        g_in: Tensor | None,
        g_out: Tensor | None,
        b: Tensor | None,
        codes: Tensor,
        scale: Tensor,
        zero: Tensor,
        packed: Packed,
        product: Product,
        keep_y: bool,
    ) -> Tensor:
        need_x, need_in, need_out, _, *_ = ctx.needs_input_grad
        with torch.autocast(x.device.type, enabled=False):
            scaled = x if g_in is None else times(g_in, x, product.channel).to(x.dtype)
            u = PackedProduct(packed, product, codes, scale, zero).apply(scaled)
            y = affine(u, g_out, b, product.channel)
        ctx.packed, ctx.product, ctx.keep_y = packed, product, keep_y
        ctx.x_shape, ctx.dtype, ctx.y_stride = x.shape, x.dtype, y.stride()
        ctx.bias_rows = 0 if b is None else len(b)
        need_dx = need_x or need_in
        ctx.save_for_backward(
            x if need_in else None,
            g_in if need_x else None,
            g_out if need_dx or need_out else None,
            b if keep_y else None,
            (y if keep_y else u) if need_out else None,
            *((codes, scale, zero) if need_dx else (None, None, None)),
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, g_in, g_out, b, kept, codes, scale, zero = ctx.saved_tensors
        need_x, need_in, need_out, need_b, *_ = ctx.needs_input_grad
        channel = ctx.product.channel
        dx = dg_in = dg_out = db = None
        dy = in_layout(dy, ctx.y_stride)
        with torch.autocast(dy.device.type, enabled=False):
            if need_b:
                db = summed(dy, None, channel, ctx.bias_rows)
            if need_out:
                dg_out = gain_gradient(dy, kept, ctx.keep_y, g_out, b, channel)
            if codes is not None:
                du = dy if g_out is None else times(g_out, dy, channel).to(ctx.dtype)
                dscaled = PackedProduct(ctx.packed, ctx.product, codes, scale, zero).transpose(du, ctx.x_shape)
                if need_in:
                    dg_in = summed(dscaled, x, channel)
                if need_x:
                    dx = dscaled if g_in is None else times(g_in, dscaled, channel).to(ctx.dtype)
        return dx, dg_in, dg_out, db, *[None] * 6
