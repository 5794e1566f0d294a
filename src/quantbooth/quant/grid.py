"""Uniform integer grids: how a float weight becomes codes, and comes back.

    q  = clamp(round(w / s) + z, 0, 2^bits - 1)
    w' = (q - z) * s

s and z belong to an output channel (axis 0 of the weight); z is a whole number on the grid, so 0 is always hit exactly.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from quantbooth.errors import UserError

BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class Grid:
    """The codes 0 .. 2^bits - 1.

    Attributes:
        bits: of a code.
        symmetric: z is the middle code 2^(bits - 1) of every channel; else each channel has its own.

    Raises:
        UserError: for a bit-width that is not offered.
    """

    bits: int
    symmetric: bool = False

    def __post_init__(self) -> None:
        if type(self.bits) is not int or self.bits not in BITS:
            raise UserError(f"bits must be one of {', '.join(map(str, BITS))}, got {self.bits!r}")
        if type(self.symmetric) is not bool:
            raise UserError(f"symmetric must be true or false, got {self.symmetric!r}")

    @property
    def levels(self) -> int:
        """The top code, 2^bits - 1."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric grid, 2^(bits - 1): one code more lies below it than above."""
        return 1 << self.bits - 1


def quantize(
    weight: Float[Tensor, "out *rest"], scale: Float[Tensor, "out *ones"], zero: Float[Tensor, "out *ones"], grid: Grid
) -> UInt8[Tensor, "out *rest"]:
    """Return the nearest code, q = clamp(round(w / s) + z, 0, levels); s and z are [out], or broadcast already."""
    s, z = _per_channel(scale, weight.ndim), _per_channel(zero, weight.ndim)
    return (weight / s).round_().add_(z).clamp_(0, grid.levels).to(torch.uint8)


def dequantize(
    codes: UInt8[Tensor, "out *rest"],
    scale: Float[Tensor, "out *ones"],
    zero: Shaped[Tensor, "out *ones"],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "out *rest"]:
    """Return w' = (q - z) * s, formed in `dtype`; q - z is exact in every float type, so w' is rounded once."""
    s, z = _per_channel(scale, codes.ndim), _per_channel(zero, codes.ndim)
    return codes.to(dtype).sub_(z).mul_(s)


def _per_channel(values: Shaped[Tensor, "out *any"], ndim: int) -> Shaped[Tensor, "out *ones"]:
    return values if values.ndim == ndim else values.view(-1, *[1] * (ndim - 1))
