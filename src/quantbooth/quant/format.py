"""The integer format of a weight: uniform affine quantization to 2, 3, 4 or 8 bits, and packing of codes into bytes.

    q  = clamp(round(w / s) + z, 0, 2^bits - 1)
    w' = (q - z) * s

s and z are per output channel (axis 0 of the weight); z is an integer on the grid, so 0 is represented exactly.

For packing, a code is split into parts whose width w divides a byte: 8 -> 8, 4 -> 4, 3 -> 2 + 1, 2 -> 2 (lowest bits
first). A part of a row of n codes fills m = ceil(n w / 8) bytes: byte i holds the codes i, m + i, 2 m + i, ... in its
bits [0, w), [w, 2 w), [2 w, 3 w), ... The parts of a row follow one another. So unpacking writes 8 / w contiguous runs
per part, all in one operation, which on a CPU is ten times faster than writing every other byte.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from quantbooth.runtime.errors import UserError

BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class Grid:
    """The codes 0 .. 2^bits - 1.

    Attributes:
        bits: of a code.
        symmetric: z is the middle code 2^(bits - 1) for every channel; else each channel has its own z.

    Raises:
        UserError: for a bit-width that is not supported.
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
        """The zero point of a symmetric grid, 2^(bits - 1): one more code is below it than above."""
        return 1 << self.bits - 1


def quantize(
    weight: Float[Tensor, "out *rest"], scale: Float[Tensor, "out *ones"], zero: Float[Tensor, "out *ones"], grid: Grid
) -> UInt8[Tensor, "out *rest"]:
    """Quantize to the nearest code, q = clamp(round(w / s) + z, 0, levels); s and z are [out] or broadcastable.

    Raises:
        UserError: for a scale that is zero or infinite.
    """
    require_scales(scale, "weight")
    s, z = _per_channel(scale, weight.ndim), _per_channel(zero, weight.ndim)
    return (weight / s).round_().add_(z).clamp_(0, grid.levels).to(torch.uint8)


def require_scales(scale: Float[Tensor, "..."], what: str) -> None:
    """Check that scales are positive and finite; without them every code would be 0, or nan.

    Raises:
        UserError: with the first other one.
    """
    wrong = scale[~((scale > 0) & scale.isfinite())]
    if wrong.numel():
        raise UserError(
            f"the scale of {what} must be positive and finite in float32, got {float(wrong[0]):g}; "
            "leave the layer out by quant.exclude"
        )


def dequantize(
    codes: UInt8[Tensor, "out *rest"],
    scale: Float[Tensor, "out *ones"],
    zero: Shaped[Tensor, "out *ones"],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "out *rest"]:
    """Dequantize to w' = (q - z) * s in `dtype`; q - z is exact in every float type, so w' is rounded once."""
    s, z = _per_channel(scale, codes.ndim), _per_channel(zero, codes.ndim)
    return codes.to(dtype).sub_(z).mul_(s)


def _per_channel(values: Shaped[Tensor, "out *any"], ndim: int) -> Shaped[Tensor, "out *ones"]:
    return values if values.ndim == ndim else values.view(-1, *[1] * (ndim - 1))


PARTS = {2: (2,), 3: (2, 1), 4: (4,), 8: (8,)}


def packed_width(bits: int, n: int) -> int:
    """Return the bytes of a row of n codes: n * bits / 8, each part rounded up to a whole byte."""
    return sum(_part_width(part, n) for part in PARTS[Grid(bits).bits])


def pack(codes: UInt8[Tensor, "out n"], bits: int) -> UInt8[Tensor, "out width"]:
    """Pack codes into bytes.

    Raises:
        ValueError: when codes are not a uint8 matrix or a code does not fit.
    """
    top = Grid(bits).levels
    if codes.dtype != torch.uint8 or codes.ndim != 2:
        raise ValueError(f"codes must be a uint8 matrix [out, n], got {codes.dtype} of shape {tuple(codes.shape)}")
    if codes.numel() and int(codes.max()) > top:
        raise ValueError(f"codes of {bits} bits must be in [0, {top}], got {int(codes.max())}")
    parts, start = [], 0
    for part in PARTS[bits]:
        parts.append(_pack_part(codes, start, part))
        start += part
    return torch.cat(parts, dim=1)


def unpack(packed: UInt8[Tensor, "out width"], bits: int, n: int) -> UInt8[Tensor, "out n"]:
    """Unpack the n codes of each row from their bytes; the inverse of `pack`.

    For 8 bits the result is the argument itself, otherwise a new tensor that may be modified in place.

    Raises:
        ValueError: when the bytes of a row are not those of n codes.
    """
    width = packed_width(bits, n)
    if packed.dtype != torch.uint8 or packed.ndim != 2 or packed.shape[1] != width:
        raise ValueError(
            f"{n} codes of {bits} bits must fill uint8 [out, {width}], "
            f"got {packed.dtype} of shape {tuple(packed.shape)}"
        )
    if bits == 8:
        return packed
    codes = None
    start = used = 0
    for part in PARTS[bits]:
        m = _part_width(part, n)
        run = _unpack_part(packed[:, used : used + m], part, n)
        codes = run if codes is None else codes.bitwise_or_(run.bitwise_left_shift_(start))
        start, used = start + part, used + m
    assert codes is not None
    return codes


def _part_width(part: int, n: int) -> int:
    return -(-n * part // 8)


def _pack_part(codes: UInt8[Tensor, "out n"], start: int, part: int) -> UInt8[Tensor, "out m"]:
    m = _part_width(part, codes.shape[1])
    held = codes.new_zeros(codes.shape[0], m)
    for place, run in enumerate(torch.split(codes, max(m, 1), dim=1)):
        held[:, : run.shape[1]] |= (run >> start & 2**part - 1) << place * part
    return held


def _unpack_part(held: UInt8[Tensor, "out m"], part: int, n: int) -> UInt8[Tensor, "out n"]:
    places = unpacking_offsets(part, held.device)
    return (held[:, None] >> places).bitwise_and_(2**part - 1).flatten(1)[:, :n]


@cache
def unpacking_offsets(part: int, device: torch.device) -> UInt8[Tensor, "places 1"]:
    """Return the bit offsets in a byte at which codes of this width start."""
    return torch.arange(0, 8, part, dtype=torch.uint8, device=device)[:, None]
