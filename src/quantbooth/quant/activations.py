"""Fake quantization of activations: codes are integers stored as floats, and matrix products stay in floating point.

    x^ = s (clamp(round(x / s) + z, 0, levels) - z),    levels = 2^bits - 1

s and z are per tensor, or per part of a tensor where a layer reads a concatenation (`split`, as in `packed_weight`). z
is an integer in [0, levels], so 0, which convolutions pad with, is represented exactly.

Gradients, with v = x / s:

    dL/dx = dL/dx^ where -z <= v <= levels - z, else 0
    dL/ds = g sum(dL/dx^ (round(v) - v  inside;  -z  below;  levels - z  above))
    g     = 1 / sqrt(N Qp)

LSQ (Esser et al., ICLR 2020, arXiv 1902.08153), eq. 3 and 5 and section 2.2, with Q_N = z, Q_P = levels - z and N the
features of one sample. While s is frozen, autograd saves one byte per element of x (inside or outside), nothing else.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from quantbooth.quant.format import require_scales

__all__ = ["ActivationBits", "ActivationQuantizer", "Probabilities", "on_grid", "parts_of"]


@dataclass(frozen=True)
class ActivationBits:
    """Bits of the inputs of quantized layers and attention products, and of attention's softmax; None is float."""

    inputs: int
    softmax: int | None


class ActivationQuantizer(nn.Module):
    """The quantizer of one tensor; its scale is unset until `fit_` or a state dict sets it.

    Args:
        bits: of a code.
        split: sizes of the parts along the channel axis, one s and z each; empty for a single part.
        channel: the channel axis.
        device: of s and z.
    """

    scale: Float[Tensor, " parts"]
    zero: Int[Tensor, " parts"]

    def __init__(
        self, bits: int, split: tuple[int, ...] = (), channel: int = -1, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.bits, self.split, self.channel = bits, split, channel
        parts = len(split) or 1
        self.register_buffer("scale", torch.ones(parts, device=device))
        self.register_buffer("zero", torch.zeros(parts, dtype=torch.int32, device=device))

    def fit_(self, low: Float[Tensor, " parts"], high: Float[Tensor, " parts"]) -> None:
        """Set s and z to cover [low, high], widened to contain 0; an empty range (all 0) gets s = 1, which is exact.

        Raises:
            UserError: for a range whose scale would be zero or infinite.
        """
        low, high = low.float().clamp(max=0), high.float().clamp(min=0)
        scale = ((high - low) / self.levels).where(high > low, 1.0)
        require_scales(scale, "an activation")
        self.scale = scale
        self.zero = (-low / self.scale).round().clamp(0, self.levels).to(torch.int32)

    @property
    def levels(self) -> int:
        """The top code, 2^bits - 1."""
        return (1 << self.bits) - 1

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return x^ in x's dtype."""
        parts = zip(parts_of(x, self.split, self.channel), self.scale, self.zero, strict=True)
        made = [on_grid(part, s, z, self.levels) for part, s, z in parts]
        return made[0] if len(made) == 1 else torch.cat(made, self.channel)

    def extra_repr(self) -> str:
        """Return bits and parts."""
        return f"bits={self.bits}" + (f", split={self.split}" if self.split else "") + ", simulated"


class Probabilities(nn.Module):
    """The quantizer of probabilities in [0, 1]: s = 1 / levels, z = 0, nothing to calibrate or store."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.levels = (1 << bits) - 1

    def forward(self, p: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return the nearest multiples of 1 / levels."""
        s, z = torch.tensor(1 / self.levels, device=p.device), torch.tensor(0, device=p.device)
        return on_grid(p, s, z, self.levels)


def parts_of(x: Float[Tensor, "b ..."], split: tuple[int, ...], channel: int) -> tuple[Float[Tensor, "b ..."], ...]:
    """Split x along its channel axis; without a split, return x as the only part."""
    return x.split(split, dim=channel) if split else (x,)


def on_grid(x: Float[Tensor, "b ..."], s: Float[Tensor, ""], z: Int[Tensor, ""], levels: int) -> Float[Tensor, "b ..."]:
    """Return x^ in x's dtype; gradients flow to x and to s."""
    made: Tensor = _OnGrid.apply(x, s, z, levels)
    return made


class _OnGrid(torch.autograd.Function):
    """The formulas above, computed in float32 or wider for every dtype of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Tensor, z: Tensor, levels: int) -> Tensor:
        need_x, need_s, *_ = ctx.needs_input_grad
        v = _steps(x, s)
        ctx.levels = levels
        ctx.save_for_backward(_inside(v, z, levels) if need_x else None, *((x, s, z) if need_s else (None, None, None)))
        return v.round_().add_(z).clamp_(0, levels).sub_(z).mul_(s).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        inside, x, s, z = ctx.saved_tensors
        dx = None if inside is None else dy * inside
        ds = None
        if x is not None:
            v, top = _steps(x, s), ctx.levels - z
            slope = torch.maximum(torch.minimum(v.round(), top), -z).sub_(v * _inside(v, z, ctx.levels))
            g = (x[0].numel() * top.clamp(min=1)).rsqrt()
            ds = (g * (dy * slope).sum()).to(s.dtype)
        return dx, ds, None, None


def _steps(x: Tensor, s: Tensor) -> Tensor:
    """Return v as a new tensor."""
    return x.to(torch.promote_types(x.dtype, torch.float32)) / s


def _inside(v: Tensor, z: Tensor, levels: int) -> Tensor:
    return v.ge(-z).logical_and_(v.le(levels - z))
