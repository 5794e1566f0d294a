"""The storage of a quantized weight, W = (q - z) * s0, with one scale and zero point per part of a concatenated input.

s0 and z are [out]. A layer that reads a concatenation of feature maps may have an s0 and a z for each: `split` gives
the number of inputs of each part, s0 and z are [parts, out], and the codes of a row are packed part by part, one after
another. So each part is stored like a separate weight, and a weight without a split has a single part. Parts of one
size, such as groups of 64 inputs, are read and written as the rows of a weight with as many times the rows.

A zero point is a code, or a number between codes where an adapter was merged into it (`zero_points`).

Source: the shortcut-splitting quantization of Q-Diffusion (arXiv 2302.04304): the two halves of a skip concatenation
have different ranges, and a shared grid wastes its codes on the wider one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from jaxtyping import Float, Integer, Real, UInt8
from torch import Tensor

from quantbooth.quant.format import pack, packed_width, unpack
from quantbooth.quant.kernels.choice import fused_for
from quantbooth.quant.observers import ScaleSearch
from quantbooth.runtime.errors import UserError

__all__ = ["Affine", "Packed"]

Affine = tuple[Float[Tensor, "*parts out"], Float[Tensor, "*parts out"]]


@dataclass(frozen=True)
class Packed:
    """The layout of a weight of `shape` [out, in, ...] that is stored in codes of `bits` bits.

    Attributes:
        bits: of a code.
        shape: of the weight.
        split: inputs of each part, in order; empty for a single part.

    Raises:
        UserError: for a split whose parts do not add up to the inputs.
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
        """Return the (s0, z) that `search` finds, for each part separately."""
        if self._even is not None:
            of_rows = self._even.fit(weight.reshape(-1, *self._even.shape[1:]), search)
            scale, zero = (found.view(self.shape[0], -1).t().contiguous() for found in of_rows)
            return scale, zero
        found = [search(part.flatten(1).float()) for part in weight.split(self._inputs, dim=1)]
        scales, zeros = zip(*found, strict=True)
        return (torch.stack(scales), torch.stack(zeros)) if self.split else found[0]

    def spread(self, values: Float[Tensor, "*parts out"]) -> Float[Tensor, "out in *ones"]:
        """Return s0 or z so that it broadcasts against the weight."""
        ones = [1] * (len(self.shape) - 2)
        if not self.split:
            return values.view(-1, 1, *ones)
        rows = [row.expand(inputs, -1) for row, inputs in zip(values, self.split, strict=True)]
        return torch.cat(rows).t().reshape(*self.shape[:2], *ones)

    def store(self, codes: UInt8[Tensor, "out in *rest"]) -> UInt8[Tensor, "out width"]:
        """Pack the codes part by part."""
        if self._even is not None:
            return self._even.store(codes.reshape(-1, *self._even.shape[1:])).view(len(codes), -1)
        parts = codes.split(self._inputs, dim=1)
        return torch.cat([pack(part.flatten(1), self.bits) for part in parts], dim=1)

    def weight(
        self,
        codes: UInt8[Tensor, "rows width"],
        scale: Float[Tensor, "*parts rows"],
        zero: Real[Tensor, "*parts rows"],
        dtype: torch.dtype,
    ) -> Float[Tensor, "rows in *rest"]:
        """Dequantize W, or the given rows of it, in `dtype`; q - z is exact in every float type.

        Parts are concatenated as integers q - z (a byte or two each) and scaled in place as floats, so no second float
        tensor of the weight's size is allocated.
        """
        if self._even is not None:
            rows_of = (codes.reshape(-1, self._even.width), _by_row(scale), _by_row(zero))
            return self._even.weight(*rows_of, dtype).view(len(codes), *self.shape[1:])
        if zero.is_floating_point():
            return self._between_codes(codes, scale, zero, dtype)
        if (fused := fused_for(codes, dtype)) is not None:
            made: Tensor = fused.dequantize(codes, scale, zero, self.bits, self._inputs, self.shape[2:], dtype)
            return made
        rows = len(codes)
        weight = self._lifted(codes, zero.view(-1, rows)).to(dtype)
        for part, s in zip(self._apart(weight, self._lengths), scale.view(-1, rows), strict=True):
            part.mul_(s[:, None])
        return weight.view(rows, *self.shape[1:])

    def integers(self, codes: UInt8[Tensor, "rows width"]) -> UInt8[Tensor, "rows in *rest"]:
        """Return the codes q; the inverse of `store`."""
        if self._even is not None:
            return self._even.integers(codes.reshape(-1, self._even.width)).view(len(codes), *self.shape[1:])
        held = zip(self._apart(codes, self._widths), self._lengths, strict=True)
        parts = [unpack(own, self.bits, n) for own, n in held]
        return torch.cat(parts, dim=1).view(len(codes), *self.shape[1:])

    def _between_codes(
        self, codes: UInt8[Tensor, "rows width"], scale: Tensor, zero: Tensor, dtype: torch.dtype
    ) -> Float[Tensor, "rows in *rest"]:
        """Dequantize with zero points between codes, in float32 or wider; no fused kernel has these."""
        rows, wide = len(codes), torch.promote_types(dtype, torch.float32)
        weight = self.integers(codes).flatten(1).to(wide)
        for part, s, z in zip(
            self._apart(weight, self._lengths), scale.view(-1, rows), zero.view(-1, rows), strict=True
        ):
            part.sub_(z[:, None]).mul_(s[:, None])
        return weight.view(rows, *self.shape[1:]).to(dtype)

    def pieces(self, limit: int) -> Iterator[slice]:
        """Yield slices of output channels, each with at most `limit` weights or one channel."""
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
        """Return q - z, which fits a signed byte below 8 bits; then it is computed in place in q."""
        return q.to(torch.int16).sub_(z) if self.bits == 8 else q.view(torch.int8).sub_(z.view(torch.int8))

    def _apart(self, joined: Tensor, sizes: list[int]) -> Sequence[Tensor]:
        """Return the columns of each part."""
        return joined.split(sizes, dim=1) if self.split else (joined,)

    @cached_property
    def _even(self) -> "Packed | None":
        """Return the layout of the parts as rows, where they have one size."""
        if len(set(self.split)) != 1:
            return None
        return Packed(self.bits, (self.shape[0] * len(self.split), self.split[0], *self.shape[2:]))

    @property
    def _inputs(self) -> tuple[int, ...]:
        return self.split or self.shape[1:2]

    @cached_property
    def _lengths(self) -> list[int]:
        """Number of codes of a row, part by part."""
        return [inputs * prod(self.shape[2:]) for inputs in self._inputs]

    @cached_property
    def _widths(self) -> list[int]:
        """Bytes of a row, part by part."""
        return [packed_width(self.bits, n) for n in self._lengths]


def _by_row(values: Real[Tensor, "parts rows"]) -> Real[Tensor, " n"]:
    """Return s0 or z of all parts of a row before those of the next row."""
    return values.t().reshape(-1)
