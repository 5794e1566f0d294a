"""Observers: find the scale and zero point of a weight's output channels, or of an activation over a calibration set.

The range of a weight's output channel is [lo, hi] = [min(w, 0), max(w, 0)], and

    s = (hi - lo) / levels,    z = clamp(round(-lo / s), 0, levels)

or, on a symmetric grid,

    z = 2^(bits - 1),    s = max(-lo / z, hi / (levels - z)).

The range of an activation is a moving average over the batches of a calibration set,

    low  <- m low  + (1 - m) min(x)
    high <- m high + (1 - m) max(x)

initialized with the minimum and maximum of the first batch. The average of the batches' extremes is inside the full
range: outliers are clipped, and the other values get finer steps. Q-Diffusion (arXiv 2302.04304) uses m = 0.95.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantbooth.quant.activations import ActivationQuantizer, parts_of
from quantbooth.quant.format import Grid, require_scales
from quantbooth.runtime.errors import UserError

__all__ = ["MSEObserver", "MinMaxObserver", "MovingAverageMinMaxObserver", "ScaleSearch", "affine", "bounds"]

BLOCK = 2**20
"""Weights searched at a time, which bounds the memory of a search for layers of any size."""

Affine = tuple[Float[Tensor, " out"], Float[Tensor, " out"]]


@dataclass(frozen=True)
class ScaleSearch(ABC):
    """A rule that finds (scale, zero) of every row of a weight, each row independently.

    Attributes:
        grid: the codes.
        name: identifies the rule in names of artifacts; it never changes.

    Raises:
        UserError: when the weight is not a non-empty matrix of finite numbers, or a channel's scale would be zero or
            infinite in float32.
    """

    grid: Grid
    name: ClassVar[str]

    def __call__(self, weight: Float[Tensor, "out n"]) -> Affine:
        """Return (s, z), float32, z integers in [0, levels]."""
        if weight.ndim != 2 or weight.numel() == 0:
            raise UserError(f"weight must be a non-empty matrix [out, n], got shape {tuple(weight.shape)}")
        if not torch.isfinite(weight).all():
            raise UserError("weight must be finite, got nan or infinity")
        rows = max(1, BLOCK // weight.shape[1])
        found = [self.search(block.float()) for block in torch.split(weight.detach(), rows)]
        scale, zero = torch.cat([scale for scale, _ in found]), torch.cat([zero for _, zero in found])
        require_scales(scale, "weight")
        return scale, zero

    @abstractmethod
    def search(self, weight: Float[Tensor, "out n"]) -> Affine:
        """Return (s, z) of one block of rows."""


@dataclass(frozen=True)
class MinMaxObserver(ScaleSearch):
    """The full range of each channel (min-max observer)."""

    name = "minmax"

    def search(self, weight: Float[Tensor, "out n"]) -> Affine:
        """Return (s, z) of [lo, hi]."""
        return affine(*bounds(weight), self.grid)


@dataclass(frozen=True)
class MSEObserver(ScaleSearch):
    """The shrunk range f * [lo, hi], f = 1, 0.99, 0.98, ..., with the smallest sum |w' - w|^lp_norm.

    f = 1 is min-max, so no channel gets worse than min-max in this norm; 80 points end at f = 0.21. Q-Diffusion (arXiv
    2302.04304) and the paper search these points with p = 2.4.

    Raises:
        ValueError: when lp_norm is not positive or the points would shrink a range to nothing.
    """

    name = "mse"
    lp_norm: float = 2.4
    points: int = 80

    def __post_init__(self) -> None:
        if not self.lp_norm > 0:
            raise ValueError(f"lp_norm must be positive, got {self.lp_norm}")
        if not 1 <= self.points <= 100:
            raise ValueError(f"points must be in [1, 100], got {self.points}")

    def search(self, weight: Float[Tensor, "out n"]) -> Affine:
        """Return the best (s, z) over all shrink points."""
        low, high = bounds(weight)
        scale, zero = affine(low, high, self.grid)
        least = self.error(weight, scale, zero)
        for point in range(1, self.points):
            s, z = affine(low * (1 - point / 100), high * (1 - point / 100), self.grid)
            error = self.error(weight, s, z)
            better = error < least
            least, scale, zero = error.where(better, least), s.where(better, scale), z.where(better, zero)
        return scale, zero

    def error(
        self, weight: Float[Tensor, "out n"], scale: Float[Tensor, " out"], zero: Float[Tensor, " out"]
    ) -> Float[Tensor, " out"]:
        """Return sum |w' - w|^lp_norm of each row, w' being w quantized and dequantized on `grid`."""
        s, z = scale[:, None], zero[:, None]
        restored = (weight / s).round_().add_(z).clamp_(0, self.grid.levels).sub_(z).mul_(s)
        return restored.sub_(weight).abs_().pow_(self.lp_norm).sum(1)


def bounds(weight: Float[Tensor, "out n"]) -> Affine:
    """Return [lo, hi] of each row, widened to contain 0."""
    low, high = weight.aminmax(dim=1)
    return low.clamp(max=0), high.clamp(min=0)


def affine(low: Float[Tensor, " out"], high: Float[Tensor, " out"], grid: Grid) -> Affine:
    """Return (s, z) of a range; an empty range (all weights 0) gets s = 1, which is exact."""
    if grid.symmetric:
        scale = torch.maximum(-low / grid.middle, high / (grid.levels - grid.middle))
        return scale.where(high > low, 1.0), torch.full_like(scale, grid.middle)
    scale = ((high - low) / grid.levels).where(high > low, 1.0)
    return scale, (-low / scale).round().clamp(0, grid.levels)


class MovingAverageMinMaxObserver(nn.Module):
    """A moving-average min-max observer, inserted where a quantizer will be; it returns its input unchanged.

    Args:
        momentum: m.
        split: sizes of the parts along the channel axis, one range each.
        channel: the channel axis.
    """

    def __init__(self, momentum: float, split: tuple[int, ...] = (), channel: int = -1) -> None:
        super().__init__()
        self.momentum, self.split, self.channel = momentum, split, channel
        self.seen: tuple[Float[Tensor, " parts"], Float[Tensor, " parts"]] | None = None

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Update the range and return x itself."""
        extremes = [torch.stack(part.aminmax()) for part in parts_of(x.float(), self.split, self.channel)]
        low, high = torch.stack(extremes, dim=1)
        if self.seen is not None:
            low, high = (torch.lerp(new, old, self.momentum) for new, old in zip((low, high), self.seen, strict=True))
        self.seen = low, high
        return x

    def quantizer(self, bits: int) -> ActivationQuantizer:
        """Return a quantizer that covers the observed range.

        Raises:
            ValueError: when nothing was observed.
        """
        if self.seen is None:
            raise ValueError("an activation's range must be seen before it is quantized, and nothing passed here")
        made = ActivationQuantizer(bits, self.split, self.channel)
        made.fit_(*self.seen)
        return made
