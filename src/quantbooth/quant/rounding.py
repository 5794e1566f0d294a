"""Learned rounding: each weight goes to the code below or above it, whichever serves the output of its block.

    W~ = s (clamp(floor(W / s) + h(V) + z, 0, levels) - z)
    h(V) = clamp(1.2 sigmoid(V) - 0.1, 0, 1)

V is learned, s and z stay. It starts where h(V) is the part of W / s that floor drops, so that W~ = W inside the range.
While it is learned

    R(V) = sum(1 - |2 h(V) - 1|^beta)

draws every h(V) to 0 or 1, the more so the smaller beta; in the end q = floor(W / s) + [V >= 0] + z.

AdaRound (Nagel et al., ICML 2020, arXiv 2004.10568), eq. 21 to 24; block by block as in BRECQ (arXiv 2102.05426), which
Q-Diffusion (arXiv 2302.04304) took to diffusion models.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from quantbooth.quant.grid import Grid

__all__ = ["LearnedRounding"]

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

    def up(self) -> Float[Tensor, "out ..."]:
        """Return h(V)."""
        return (torch.sigmoid(self.v) * (HIGH - LOW) + LOW).clamp(0, 1)

    def weight(self) -> Float[Tensor, "out ..."]:
        """Return W~; its gradient goes to V."""
        return ((self.below + self.up()).clamp(0, self.levels) - self.zero) * self.scale

    def penalty(self, beta: float) -> Float[Tensor, ""]:
        """Return R(V)."""
        return (1 - (2 * self.up() - 1).abs().pow(beta)).sum()

    @torch.no_grad()
    def codes(self) -> UInt8[Tensor, "out ..."]:
        """Return q; as made, the nearest codes."""
        return (self.below + (self.v >= 0)).clamp(0, self.levels).to(torch.uint8)
