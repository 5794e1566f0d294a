"""How a quantized weight is stored, and the float weight it stands for.

    W = (q - z) * s0

s0 and z are [out]. A layer that sees a concatenation of feature maps may have an s0 and a z of each: `split` tells how
many of its inputs belong to which part, s0 and z are [parts, out], and the codes are packed part by part, their bytes
side by side. So each part is stored as a weight of its own, and a weight without a split is the one part there is.

Splitting the decoder's shortcuts is Q-Diffusion's (arXiv 2302.04304, "shortcut-splitting quantization"): the halves of
a skip concatenation have other ranges, and one grid for both wastes its codes on the wider.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from quantbooth.quant.format import pack, packed_width, unpack
from quantbooth.quant.observers import ScaleSearch
from quantbooth.runtime.errors import UserError

__all__ = ["Affine", "Packed"]

Affine = tuple[Float[Tensor, "*parts out"], Float[Tensor, "*parts out"]]


@dataclass(frozen=True)
class Packed:
    """The form of a weight of `shape` [out, in, ...] that is stored in codes of `bits` bits.

    Attributes:
        bits: of a code.
        shape: of the weight.
        split: inputs of each part, in order; empty where the weight is one.

    Raises:
        UserError: for bits that are not offered, or a split that does not make up the inputs.
    """

    bits: int
    shape: tuple[int, ...]
    split: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        inputs = self.shape[1]
        if self.split and (len(self.split) < 2 or min(self.split) < 1 or sum(self.split) != inputs):
            raise UserError(f"split must be two or more sizes >= 1 with the sum {inputs}, got {self.split}")

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return sum(self._widths)

    @property
    def affine_shape(self) -> tuple[int, ...]:
        """The shape of s0 and of z."""
        return (len(self.split), self.shape[0]) if self.split else self.shape[:1]

    def fit(self, weight: Float[Tensor, "out in *rest"], search: ScaleSearch) -> Affine:
        """Return the (s0, z) that `search` finds, for each part by itself."""
        found = [search(part.flatten(1).float()) for part in weight.split(self._inputs, dim=1)]
        scales, zeros = zip(*found, strict=True)
        return (torch.stack(scales), torch.stack(zeros)) if self.split else found[0]

    def spread(self, values: Float[Tensor, "*parts out"]) -> Float[Tensor, "out in *ones"]:
        """Return s0 or z so that it broadcasts against the weight."""
        ones = [1] * (len(self.shape) - 2)
        if not self.split:
            return values.view(-1, 1, *ones)
        inputs = torch.tensor(self.split, device=values.device)
        return values.repeat_interleave(inputs, dim=0).t().reshape(*self.shape[:2], *ones)

    def store(self, codes: UInt8[Tensor, "out in *rest"]) -> UInt8[Tensor, "out width"]:
        """Return the codes, packed part by part."""
        parts = codes.split(self._inputs, dim=1)
        return torch.cat([pack(part.flatten(1), self.bits) for part in parts], dim=1)

    def weight(
        self,
        codes: UInt8[Tensor, "rows width"],
        scale: Float[Tensor, "*parts rows"],
        zero: UInt8[Tensor, "*parts rows"],
        dtype: torch.dtype,
    ) -> Float[Tensor, "rows in *rest"]:
        """Return W, or the rows of it that are given, newly formed in `dtype`; q - z is exact in every float type.

        A float is written twice and nothing else of its size is made: parts are joined as whole numbers q - z, which
        are bytes, and scaled as floats.
        """
        rows = len(codes)
        weight = self._lifted(codes, zero.view(-1, rows)).to(dtype)
        for part, s in zip(self._apart(weight, self._lengths), scale.view(-1, rows), strict=True):
            part.mul_(s[:, None])
        return weight.view(rows, *self.shape[1:])

    def pieces(self, limit: int) -> Iterator[slice]:
        """Yield runs of output channels, each with at most `limit` weights or one channel."""
        step = max(1, limit // max(1, sum(self._lengths)))
        for start in range(0, self.shape[0], step):
            yield slice(start, min(start + step, self.shape[0]))

    def _lifted(
        self, codes: UInt8[Tensor, "rows width"], zero: UInt8[Tensor, "parts rows"]
    ) -> Integer[Tensor, "rows n"]:
        """Return q - z of all parts."""
        held = zip(self._apart(codes, self._widths), self._lengths, zero, strict=True)
        parts = [self._less(unpack(own, self.bits, n), z[:, None]) for own, n, z in held]
        return torch.cat(parts, dim=1) if self.split else parts[0]

    def _less(self, q: UInt8[Tensor, "rows n"], z: UInt8[Tensor, "rows 1"]) -> Integer[Tensor, "rows n"]:
        """Return q - z, which fits a signed byte below 8 bits; q is changed then."""
        return q.to(torch.int16).sub_(z) if self.bits == 8 else q.view(torch.int8).sub_(z.view(torch.int8))

    def _apart(self, joined: Tensor, sizes: list[int]) -> Sequence[Tensor]:
        """Return the columns of each part."""
        return joined.split(sizes, dim=1) if self.split else (joined,)

    @property
    def _inputs(self) -> tuple[int, ...]:
        return self.split or self.shape[1:2]

    @cached_property
    def _lengths(self) -> list[int]:
        """Codes of a row, part by part."""
        return [inputs * prod(self.shape[2:]) for inputs in self._inputs]

    @cached_property
    def _widths(self) -> list[int]:
        """Bytes of a row, part by part."""
        return [packed_width(self.bits, n) for n in self._lengths]
