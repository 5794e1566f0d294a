"""AdaRound, learned rounding: each weight is rounded down or up, whichever reconstructs the output of its block best.

    W~ = s (clamp(floor(W / s) + h(V) + z, 0, levels) - z)
    h(V) = clamp(1.2 sigmoid(V) - 0.1, 0, 1)

V is trained, s and z are fixed. V is initialized so that h(V) is the fractional part of W / s, and W~ = W inside the
range. During training

    R(V) = sum(1 - |2 h(V) - 1|^beta)

pushes every h(V) to 0 or 1, more strongly for smaller beta; at the end q = floor(W / s) + [V >= 0] + z.

Both have hand-written gradients: the only tensors of a weight's size that a step saves are h(V) and R's gradient.

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
"""The range to which the sigmoid is stretched (gamma and zeta), so that h reaches 0 and 1 at finite V."""


class LearnedRounding(nn.Module):
    """The rounding of one weight.

    Args:
        weight: in floats.
        scale: s, which broadcasts against the weight.
        zero: z, which broadcasts against the weight.
        grid: the codes.
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
        """Return q; before training these are the nearest codes."""
        return (self.below + (self.v >= 0)).clamp(0, self.levels).to(torch.uint8)


def up(v: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return h(V)."""
    return torch.sigmoid(v).mul_(HIGH - LOW).add_(LOW).clamp_(0, 1)


def slope(h: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return dh/dV = 1.2 f (1 - f) = (h + 0.1) (1.1 - h) / 1.2, f being the sigmoid; 0 where h is clamped."""
    held = (h <= 0).logical_or_(h >= 1)
    return (h - LOW).mul_(HIGH - h).mul_(1 / (HIGH - LOW)).masked_fill_(held, 0)


class _Soft(torch.autograd.Function):
    """W~ of V: dL/dV = dL/dW~ s dh/dV where nothing is clamped, else 0."""

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
    """R of V, with p = |2 h - 1|: dR/dV = -2 beta p^(beta - 1) sign(2 h - 1) dh/dV, computed in the forward."""

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
