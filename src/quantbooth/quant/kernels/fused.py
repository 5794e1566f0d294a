"""Triton kernels: every number is read once and written once, computed in float32 and rounded once.

An activation is [b, c, p] with strides: p is the positions of an image or the tokens of a linear layer, so one kernel
serves both layouts. Sums are of fixed parts in a fixed order, so they are the same in every run.
"""

# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from math import prod
from typing import Any, TypeVar, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from quantbooth.quant.format import PARTS, packed_width
from quantbooth.quant.kernels.operators import dense

__all__ = ["affine", "dequantize", "gradients", "select", "select_gradient"]

Made = TypeVar("Made")

PROGRAMS = 528
"""Programs wanted in a sum over positions: four for each multiprocessor of an H100."""


def _there(launch: Callable[..., Made]) -> Callable[..., Made]:
    """Launch on the device of the first tensor: Triton takes the current one."""

    @wraps(launch)
    def on_its_device(x: Tensor, *others: Any) -> Made:
        with torch.cuda.device_of(x):
            return launch(x, *others)

    return on_its_device


@triton.jit
@no_type_check
def _dequantize(codes, scale, zero, out, n, row_bytes, row_length, BITS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    s, z = tl.load(scale + row), tl.load(zero + row).to(tl.int32)
    source, target = codes + row.to(tl.int64) * row_bytes, out + row.to(tl.int64) * row_length
    WIDTH: tl.constexpr = 2 if BITS == 3 else BITS
    PLACES: tl.constexpr = 8 // WIDTH
    m = (n + PLACES - 1) // PLACES
    held = tl.load(source + j, mask=j < m, other=0).to(tl.int32)
    for place in tl.static_range(PLACES):
        i = place * m + j
        inside = (j < m) & (i < n)
        q = (held >> (place * WIDTH)) & ((1 << WIDTH) - 1)
        if BITS == 3:  # the third bits follow, eight in a byte
            top = (n + 7) // 8
            high = tl.load(source + m + i % top, mask=inside, other=0).to(tl.int32)
            q = q | (((high >> (i // top)) & 1) << 2)
        tl.store(target + i, ((q - z).to(tl.float32) * s).to(out.dtype.element_ty), mask=inside)


@_there
def dequantize(
    codes: UInt8[Tensor, "rows width"],
    scale: Float[Tensor, "*parts rows"],
    zero: UInt8[Tensor, "*parts rows"],
    bits: int,
    split: tuple[int, ...],
    rest: tuple[int, ...],
    dtype: torch.dtype,
) -> Float[Tensor, "rows in *rest"]:
    """Return W = (q - z) s0 as `Packed.weight` does; `split` has the inputs of each part, `rest` a filter's axes."""
    rows, positions = len(codes), prod(rest)
    weight = torch.empty((rows, sum(split), *rest), dtype=dtype, device=codes.device)
    flat, start, used = weight.view(rows, -1), 0, 0
    for inputs, s, z in zip(split, scale.view(-1, rows), zero.view(-1, rows), strict=True):
        n = inputs * positions
        first = -(-n * PARTS[bits][0] // 8)  # bytes of the codes' first part, each holding 8 / width of them
        block = min(1024, max(16, triton.next_power_of_2(first)))
        _dequantize[(rows, triton.cdiv(first, block))](
            codes[:, used:], s, z, flat[:, start:], n, codes.stride(0), flat.stride(0), BITS=bits, BLOCK=block
        )
        start, used = start + n, used + packed_width(bits, n)
    return weight


@triton.jit
@no_type_check
def _affine(u, y, gain, shift, shift_step, c, p, sb, sc, sp, SHIFT: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr):
    b, i, j = tl.program_id(2), tl.program_id(0) * BC + tl.arange(0, BC), tl.program_id(1) * BP + tl.arange(0, BP)
    at = b.to(tl.int64) * sb + i[:, None] * sc + j[None, :] * sp
    inside = (i[:, None] < c) & (j[None, :] < p)
    g = tl.load(gain + b * c + i, mask=i < c, other=0)[:, None]
    value = tl.load(u + at, mask=inside, other=0).to(tl.float32) * g
    if SHIFT:
        value += tl.load(shift + b * shift_step + i, mask=i < c, other=0)[:, None]
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _plus(a, b):
    return a + b


@triton.jit
@no_type_check
def _gradients(
    dy, u, gain, shift, shift_step, du, sums, c, p, sb, sc, sp, parts,
    SHIFT: tl.constexpr, DU: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    b, i, part = tl.program_id(2), tl.program_id(0) * BC + tl.arange(0, BC), tl.program_id(1)
    held = i < c
    g = tl.load(gain + b * c + i, mask=held, other=0)[:, None]
    if SHIFT:
        added = tl.load(shift + b * shift_step + i, mask=held, other=0)[:, None]
    total = tl.full((BC,), 0.0, tl.float32)
    for start in range(part * BP, p, parts * BP):
        j = start + tl.arange(0, BP)
        at = b.to(tl.int64) * sb + i[:, None] * sc + j[None, :] * sp
        inside = held[:, None] & (j[None, :] < p)
        up = tl.load(dy + at, mask=inside, other=0).to(tl.float32)
        factor = tl.load(u + at, mask=inside, other=0).to(tl.float32)
        if SHIFT:
            factor -= added  # where nothing was read dy is 0
        total += tl.reduce(up * factor, 1, _plus)
        if DU:
            tl.store(du + at, (g * up).to(du.dtype.element_ty), mask=inside)
    tl.store(sums + (part * tl.num_programs(2) + b) * c + i, total, mask=held)


@dataclass(frozen=True)
class _Axes:
    """An activation as [b, c, p]: sizes, strides in numbers, and the tile of a program."""

    b: int
    c: int
    p: int
    strides: tuple[int, int, int]
    tile: tuple[int, int]

    @classmethod
    def of(cls, x: Tensor, channel: int) -> "_Axes":
        """Describe a dense activation; positions lie one after another in both layouts."""
        b, c = x.shape[0], x.shape[channel]
        p = x.numel() // max(1, b * c)
        if channel == 1 and x.is_contiguous():
            return cls(b, c, p, (c * p, p, 1), (4, min(512, max(16, triton.next_power_of_2(p)))))
        return cls(b, c, p, (c * p, 1, c), (64, 32))


def _like(x: Tensor, other: Tensor) -> Tensor:
    """Return x with the strides of another tensor."""
    return x if x.stride() == other.stride() else torch.empty_like(other, dtype=x.dtype).copy_(x)


@_there
def affine(
    u: Float[Tensor, "b ..."], gain: Float[Tensor, "b c"], shift: Float[Tensor, "#b c"] | None, channel: int
) -> Float[Tensor, "b ..."]:
    """Return y = g u + b in u's dtype."""
    u = dense(u, channel)
    axes, y = _Axes.of(u, channel), torch.empty_like(u)
    if y.numel() == 0:
        return y
    bc, bp = axes.tile
    _affine[(triton.cdiv(axes.c, bc), triton.cdiv(axes.p, bp), axes.b)](
        u, y, gain.contiguous(), shift, _step(shift), axes.c, axes.p, *axes.strides,
        SHIFT=shift is not None, BC=bc, BP=bp,
    )  # fmt: skip
    return y


def _step(shift: Tensor | None) -> int:
    """Return the numbers from one sample's row to the next; one row may be that of all samples."""
    return 0 if shift is None or len(shift) == 1 else shift.stride(0)


@_there
def gradients(
    dy: Float[Tensor, "b ..."],
    u: Float[Tensor, "b ..."],
    gain: Float[Tensor, "b c"],
    shift: Float[Tensor, "#b c"] | None,
    channel: int,
    need_du: bool,
) -> tuple[Float[Tensor, "b ..."] | None, Float[Tensor, "b c"]]:
    """Return du = g dy, where asked for, and sum(dy (u - b)) in float32."""
    dy = dense(dy, channel)
    axes = _Axes.of(dy, channel)
    bc, bp = axes.tile
    blocks = triton.cdiv(axes.c, bc)
    parts = min(triton.cdiv(axes.p, bp), max(1, PROGRAMS // max(1, blocks * axes.b)))
    du = torch.empty_like(dy) if need_du else None
    sums = torch.zeros((max(1, parts), axes.b, axes.c), dtype=torch.float32, device=dy.device)
    if dy.numel():
        _gradients[(blocks, parts, axes.b)](
            dy, _like(u, dy), gain.contiguous(), shift, _step(shift), dy if du is None else du, sums,
            axes.c, axes.p, *axes.strides, parts, SHIFT=shift is not None, DU=need_du, BC=bc, BP=bp,
        )  # fmt: skip
    return du, sums[0] if parts <= 1 else sums.sum(0)


@triton.jit
@no_type_check
def _select(values, choice, rows, n, start, BLOCK: tl.constexpr):
    b, i = tl.program_id(1), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    chosen = tl.load(choice + b)
    own = tl.load(values + (chosen - 1) * n + i, mask=(i < n) & (chosen > 0), other=0)
    tl.store(rows + b * n + i, tl.where(chosen > 0, own, start), mask=i < n)


@triton.jit
@no_type_check
def _select_gradient(drows, choice, dvalues, n, batch, BLOCK: tl.constexpr):
    k, i = tl.program_id(1), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.full((BLOCK,), 0.0, tl.float32)
    for b in range(batch):
        own = tl.load(drows + b * n + i, mask=i < n, other=0)
        total += tl.where(tl.load(choice + b) == k + 1, own, 0)
    tl.store(dvalues + k * n + i, total, mask=i < n)


WIDE = 1024


@_there
def select(values: Float[Tensor, "sets n"], choice: Int64[Tensor, " b"], start: float) -> Float[Tensor, "b n"]:
    """Return row choice[i] - 1 of each sample i, and `start` where choice[i] is 0."""
    n = values.shape[1]
    rows = values.new_empty(len(choice), n)
    _select[(triton.cdiv(n, WIDE), len(choice))](values.contiguous(), choice, rows, n, start, BLOCK=WIDE)
    return rows


@_there
def select_gradient(drows: Float[Tensor, "b n"], choice: Int64[Tensor, " b"], sets: int) -> Float[Tensor, "sets n"]:
    """Return the gradient of `select` in its values: of each set the sum over its samples, in their order."""
    batch, n = drows.shape
    dvalues = drows.new_empty(sets, n)
    _select_gradient[(triton.cdiv(n, WIDE), sets)](drows.contiguous(), choice, dvalues, n, batch, BLOCK=WIDE)
    return dvalues
