"""Learned rounding: each weight goes to the code below or above it, whichever serves the output of its block.

    W~ = s (clamp(floor(W / s) + h(V) + z, 0, levels) - z)
    h(V) = clamp(1.2 sigmoid(V) - 0.1, 0, 1)

V is learned, s and z stay. It starts where h(V) is the part of W / s that floor drops, so that W~ = W inside the range.
While it is learned

    R(V) = sum(1 - |2 h(V) - 1|^beta)

draws every h(V) to 0 or 1, the more so the smaller beta; in the end q = floor(W / s) + [V >= 0] + z.

Both are differentiated by hand: of a weight's size, a step keeps h(V) and R's gradient for the backward alone.

AdaRound (Nagel et al., ICML 2020, arXiv 2004.10568), eq. 21 to 24; block by block as in BRECQ (arXiv 2102.05426), which
Q-Diffusion (arXiv 2302.04304) took to diffusion models.
"""

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from quantbooth.quant.format import Grid

__all__ = ["LearnedRounding", "up"]

LOW, HIGH = -0.1, 1.1
"""What the sigmoid is stretched to (gamma and zeta), so that h reaches 0 and 1 where V is finite."""


class LearnedRounding(nn.Module):
    """The rounding of one weight.

    Args:
        weight: in floats.
        scale: s, and
        zero: z, both broadcasting against the weight.
        grid: the codes there are.
    """

    below: Float[Tensor, "out ..."]
    scale: Float[Tensor, "out ..."]
    zero: Float[Tensor, "out ..."]

    def __init__(
        self,
        weight: Float[Tensor, "out ..."],
        scale: Float[Tensor, "out ..."],
        zero: Float[Tensor, "out ..."],
        grid: Grid,
    ) -> None:
        super().__init__()
        steps = weight.detach().float() / scale
        below = steps.floor()
        self.levels = grid.levels
        self.register_buffer("below", below + zero)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)
        self.v = nn.Parameter(torch.logit((steps - below - LOW) / (HIGH - LOW)))

    def weight(self) -> Float[Tensor, "out ..."]:
        """Return W~; its gradient goes to V."""
        made: Tensor = _Soft.apply(self.v, self.below, self.scale, self.zero, self.levels)
        return made

    def penalty(self, beta: float) -> Float[Tensor, ""]:
        """Return R(V)."""
        made: Tensor = _Penalty.apply(self.v, beta)
        return made

    @torch.no_grad()
    def codes(self) -> UInt8[Tensor, "out ..."]:
        """Return q; as made, the nearest codes."""
        return (self.below + (self.v >= 0)).clamp(0, self.levels).to(torch.uint8)


def up(v: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return h(V)."""
    return torch.sigmoid(v).mul_(HIGH - LOW).add_(LOW).clamp_(0, 1)


def slope(h: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return dh/dV = 1.2 f (1 - f) = (h + 0.1) (1.1 - h) / 1.2, f being the sigmoid; 0 where h is clamped."""
    held = (h <= 0).logical_or_(h >= 1)
    return (h - LOW).mul_(HIGH - h).mul_(1 / (HIGH - LOW)).masked_fill_(held, 0)


class _Soft(torch.autograd.Function):
    """W~ of V: dL/dV = dL/dW~ s dh/dV where no clamp holds."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, below: Tensor, scale: Tensor, zero: Tensor, levels: int) -> Tensor:
        h = up(v)
        ctx.save_for_backward(h, below, scale)
        ctx.levels = levels
        return (h + below).clamp_(0, levels).sub_(zero).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dw: Tensor) -> tuple[Tensor | None, ...]:
        h, below, scale = ctx.saved_tensors
        outside = (below < 0).logical_or_(below >= ctx.levels)
        return slope(h).mul_(scale).mul_(dw).masked_fill_(outside, 0), None, None, None, None


class _Penalty(torch.autograd.Function):
    """R of V, with p = |2 h - 1|: dR/dV = -2 beta p^(beta - 1) sign(2 h - 1) dh/dV, formed at once and kept."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, beta: float) -> Tensor:
        h = up(v)
        far = 2 * h - 1
        distance = far.abs()
        power = distance.pow(beta - 1)
        value = v.numel() - distance.mul_(power).sum()
        ctx.save_for_backward(slope(h).mul_(power).mul_(far.sign_()).mul_(-2 * beta))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dr: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * dr, None
