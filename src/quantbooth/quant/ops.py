"""Linear and convolution ops with a frozen, packed weight and trainable gains on input and output channels.

    y = g_out * (W (g_in * x)) + b,    W = (q - z) * s0

step by step, where u is the base layer without its bias if g_in = 1:

    x' = g_in * x        u = product(x', W)        y = g_out * u + b

which equals a weight dequantized with s = g_out * s0 * g_in. Because gains multiply *activations*,

    dL/db     = sum(dL/dy)                         over all axes but the batch and the channel
    dL/dg_out = sum(dL/dy * u)
    dL/dx'    = product^T(g_out * dL/dy, W)
    dL/dg_in  = sum(dL/dx' * x)
    dL/dx     = g_in * dL/dx'

so there is no weight gradient and W is temporary: dequantized in forward, freed, dequantized again in backward. For the
backward, autograd saves y where g_out is trainable (or u, see `per_channel`), and x where g_in is trainable; b and a
frozen gain need nothing.

On a CPU, and without groups, W is dequantized in pieces of a few output channels: the allocator reuses memory of a
piece's size, but asks the system for a weight of tens of megabytes at every product, which can cost more than the
product itself. Pieces also make the peak memory of a step independent of the largest weight. Elsewhere W is one piece.

PEQA (Kim et al., NeurIPS 2023, arXiv 2305.14152) trains s = s0 + ds; g_out = 1 + ds / s0. Gains on both sides are the
multi-channel-wise scale update of TuneQDM (arXiv 2401.04339 v2), W = s_out (q - z) s_in with g_in = s_in.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Real, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from quantbooth.quant.packed_weight import Packed
from quantbooth.quant.per_channel import affine, gradients, in_layout, keeps_output, require_full, summed

__all__ = ["Conv2dProduct", "LinearProduct", "PIECE", "PackedProduct", "Product", "gained_product"]


class Product(ABC):
    """A linear map with a weight, and its transpose in x; `channel` is the channel axis of y."""

    channel: int

    @property
    @abstractmethod
    def by_channel(self) -> bool:
        """Whether every output channel reads all inputs, so that a slice of W's rows gives a slice of y's channels."""

    @abstractmethod
    def apply(self, x: Float[Tensor, "b ..."], weight: Float[Tensor, "out ..."]) -> Float[Tensor, "b ..."]:
        """Return product(x, W)."""

    @abstractmethod
    def transpose(
        self, grad: Float[Tensor, "b ..."], weight: Float[Tensor, "out ..."], x_shape: Sequence[int]
    ) -> Float[Tensor, "b ..."]:
        """Return product^T(grad, W), of shape x_shape."""


@dataclass(frozen=True)
class LinearProduct(Product):
    """x W^T on [b, ..., in]."""

    channel = -1
    by_channel = True

    def apply(self, x: Float[Tensor, "b ... in"], weight: Float[Tensor, "out in"]) -> Float[Tensor, "b ... out"]:
        """Return x W^T."""
        return F.linear(x, weight)

    def transpose(
        self, grad: Float[Tensor, "b ... out"], weight: Float[Tensor, "out in"], x_shape: Sequence[int]
    ) -> Float[Tensor, "b ... in"]:
        """Return grad W."""
        return grad @ weight


@dataclass(frozen=True)
class Conv2dProduct(Product):
    """W * x on [b, in, h, w]; pairs are (vertical, horizontal)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    channel = 1

    @property
    def by_channel(self) -> bool:
        """Whether there is one group."""
        return self.groups == 1

    def apply(
        self, x: Float[Tensor, "b in h w"], weight: Float[Tensor, "out in_per_group kh kw"]
    ) -> Float[Tensor, "b out h2 w2"]:
        """Return W * x."""
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def transpose(
        self, grad: Float[Tensor, "b out h2 w2"], weight: Float[Tensor, "out ..."], x_shape: Sequence[int]
    ) -> Float[Tensor, "b in h w"]:
        """Return the transposed convolution; only the shape of x matters, so an empty tensor replaces it."""
        x = grad.new_empty(x_shape)
        only_dx = (True, False, False)
        backward = torch.ops.aten.convolution_backward
        window = (self.stride, self.padding, self.dilation)
        dx: Tensor = backward(grad, x, weight, None, *window, False, (0, 0), self.groups, only_dx)[0]
        return dx


PIECE = 1 << 21
"""Number of weights in a piece: 8 MB of float32."""


@dataclass(frozen=True)
class PackedProduct:
    """A product with the weight that these codes, scales and zero points represent."""

    packed: Packed
    product: Product
    codes: UInt8[Tensor, "out width"]
    scale: Float[Tensor, "*parts out"]
    zero: Real[Tensor, "*parts out"]

    def apply(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return product(x, W)."""
        parts = [self.product.apply(x, piece) for _, piece in self.pieces(x.dtype)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, self.product.channel)

    def transpose(self, du: Float[Tensor, "b ..."], x_shape: Sequence[int]) -> Float[Tensor, "b ..."]:
        """Return product^T(du, W), of shape x_shape: the sum over pieces of W and their channels of du."""
        parts = (
            self.product.transpose(du.narrow(self.product.channel, start, len(piece)), piece, x_shape)
            for start, piece in self.pieces(du.dtype)
        )
        return reduce(Tensor.add_, parts)

    def pieces(self, dtype: torch.dtype) -> Iterator[tuple[int, Float[Tensor, "rows ..."]]]:
        """Yield dequantized rows of W, each piece with its first output channel."""
        apart = self.codes.device.type == "cpu" and self.product.by_channel
        for rows in self.packed.pieces(PIECE if apart else prod(self.packed.shape)):
            yield rows.start, self.packed.weight(self.codes[rows], self.scale[..., rows], self.zero[..., rows], dtype)


def gained_product(
    x: Float[Tensor, "b ..."],
    gain_in: Float[Tensor, "b in"] | None,
    gain_out: Float[Tensor, "b out"] | None,
    bias: Float[Tensor, "#b out"] | None,
    codes: UInt8[Tensor, "out width"],
    scale: Float[Tensor, "*parts out"],
    zero: Real[Tensor, "*parts out"],
    packed: Packed,
    product: Product,
    small_bias: bool = False,
) -> Float[Tensor, "b ..."]:
    """Return y = g_out * product(g_in * x, W) + b in x's dtype (autocast's under autocast), sample i with row i.

    No gain means 1; a bias may be one row for all samples. Gradients flow to x, the gains and b only. Modifying x or y
    in place before the backward may raise an error there. With a `small_bias` y is saved for the backward, not u, also
    in bfloat16 and on a GPU.

    Raises:
        RuntimeError: when a trainable parameter has half precision: near 1 it cannot represent small steps.
    """
    require_full(gain_in, gain_out, bias)
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(kind))
    keep_y = keeps_output(gain_out, bias, x.dtype, small_bias)
    y: Tensor = _GainedProduct.apply(x, gain_in, gain_out, bias, codes, scale, zero, packed, product, keep_y)
    return y


class _GainedProduct(torch.autograd.Function):
    """The formulas above, each written once; autocast is off inside, so every dtype is explicit."""

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
        with torch.autocast(x.device.type, enabled=False):  # it would cast the gains to half precision
            scaled = x if g_in is None else affine(x, g_in, None, product.channel)
            u = PackedProduct(packed, product, codes, scale, zero).apply(scaled)
            y = affine(u, g_out, b, product.channel)
        ctx.packed, ctx.product, ctx.keep_y = packed, product, keep_y
        ctx.x_shape, ctx.dtype, ctx.y_stride = x.shape, x.dtype, y.stride()
        ctx.bias_rows = 0 if b is None else len(b)
        # Only what a branch of backward reads is saved: x for dg_in, g_in for dx, and W, as codes, for both of them.
        need_dx = need_x or need_in
        ctx.save_for_backward(  # a tensor set on ctx instead gives wrong gradients under checkpointing
            x if need_in else None,
            g_in if need_dx else None,
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
        with torch.autocast(dy.device.type, enabled=False):  # autograd does not restore the state of forward
            if need_b:  # b may be one row for all samples, whose gradient is summed over the batch too
                db = summed(dy, None, channel, ctx.bias_rows)
            du: Any = dy
            need_du = codes is not None  # False where neither x nor g_in is trained: W is not formed again
            if g_out is not None:  # y is saved where u = (y - b) / g_out is safe: by the next operation anyway
                du, dg_out = gradients(dy, kept, ctx.keep_y, g_out, b, channel, need_du, need_out)
            if need_du:
                dscaled = PackedProduct(ctx.packed, ctx.product, codes, scale, zero).transpose(du, ctx.x_shape)
                if g_in is None:
                    dx = dscaled
                else:  # x is saved without g_in: dL/dg_in = sum(dL/dx' x) divides by no gain near 0
                    dx, dg_in = gradients(dscaled, x, False, g_in, None, channel, need_x, need_in)
        return dx, dg_in, dg_out, db, *[None] * 6
