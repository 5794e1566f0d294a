"""Candidates of Triton kernels for a quantized layer, measured by `check`; `quantbooth.quant` is the reference.

    dequantize    W = g (q - z) s0 in one kernel: codes in, W in the activation's dtype out
    affine        y = g u + b, one kernel
    gradients     du = g dy and sum(dy (u - b)) in one pass over dy and u

An activation is [b, c, p] with strides: p is the positions of an image or the tokens of a linear layer, so one kernel
serves both layouts. Sums are of fixed parts in a fixed order, so they are deterministic.
"""

# mypy: disable-error-code="no-untyped-def"
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantbooth.quant.format import PARTS, packed_width
from quantbooth.quant.packed_weight import Packed

__all__ = ["affine", "dequantize", "gradients"]


@triton.jit
def _dequantize(
    codes, scale, zero, gain, out, n, width, row_stride, BITS: tl.constexpr, GAIN: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    s = tl.load(scale + row)
    if GAIN:
        s = s * tl.load(gain + row)
    z = tl.load(zero + row).to(tl.int32)
    source, target = codes + row.to(tl.int64) * width, out + row.to(tl.int64) * row_stride
    WIDTH: tl.constexpr = 2 if BITS == 3 else BITS
    PLACES: tl.constexpr = 8 // WIDTH
    m = (n + PLACES - 1) // PLACES
    held = tl.load(source + j, mask=j < m, other=0).to(tl.int32)
    for place in tl.static_range(PLACES):
        i = place * m + j
        inside = (j < m) & (i < n)
        q = (held >> (place * WIDTH)) & ((1 << WIDTH) - 1)
        if BITS == 3:
            top = (n + 7) // 8
            high = tl.load(source + m + i % top, mask=inside, other=0).to(tl.int32)
            q = q | (((high >> (i // top)) & 1) << 2)
        w = (q - z).to(tl.float32) * s
        tl.store(target + i, w.to(out.dtype.element_ty), mask=inside)


def dequantize(
    packed: Packed, codes: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype, gain: Tensor | None = None
) -> Tensor:
    """Return W as `Packed.weight` does, times a gain per output channel where one is given."""
    rows, split = len(codes), packed.split or packed.shape[1:2]
    rest = prod(packed.shape[2:])
    weight = torch.empty((rows, *packed.shape[1:]), dtype=dtype, device=codes.device)
    flat, start, used = weight.view(rows, -1), 0, 0
    for part, inputs in enumerate(split):
        n, width = inputs * rest, packed_width(packed.bits, inputs * rest)
        block = min(1024, triton.next_power_of_2(max(16, n * PARTS[packed.bits][0] // 8)))
        grid = (rows, triton.cdiv(-(-n * PARTS[packed.bits][0] // 8), block))
        _dequantize[grid](
            codes[:, used:], scale.view(-1, rows)[part], zero.view(-1, rows)[part], gain, flat[:, start:], n,
            codes.stride(0), flat.stride(0), BITS=packed.bits, GAIN=gain is not None, BLOCK=block,
        )  # fmt: skip
        start, used = start + n, used + width
    return weight


@triton.jit
def _affine(u, y, gain, bias, b_step, c, p, sb, sc, sp, BIAS: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr):
    b, i, j = tl.program_id(2), tl.program_id(0) * BC + tl.arange(0, BC), tl.program_id(1) * BP + tl.arange(0, BP)
    at = b.to(tl.int64) * sb + i[:, None] * sc + j[None, :] * sp
    inside = (i[:, None] < c) & (j[None, :] < p)
    value = (
        tl.load(u + at, mask=inside, other=0).to(tl.float32) * tl.load(gain + b * c + i, mask=i < c, other=0)[:, None]
    )
    if BIAS:
        value += tl.load(bias + b * b_step + i, mask=i < c, other=0)[:, None]
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _gradients(
    dy, u, gain, bias, b_step, du, dg, c, p, sb, sc, sp, parts,
    BIAS: tl.constexpr, DU: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    b, i = tl.program_id(2), tl.program_id(0) * BC + tl.arange(0, BC)
    part = tl.program_id(1)
    chans = i < c
    g = tl.load(gain + b * c + i, mask=chans, other=0)[:, None]
    total = tl.zeros((BC,), tl.float32)
    if BIAS:
        shift = tl.load(bias + b * b_step + i, mask=chans, other=0)[:, None]
    for start in range(part * BP, p, parts * BP):
        j = start + tl.arange(0, BP)
        at = b.to(tl.int64) * sb + i[:, None] * sc + j[None, :] * sp
        inside = chans[:, None] & (j[None, :] < p)
        up = tl.load(dy + at, mask=inside, other=0).to(tl.float32)
        value = tl.load(u + at, mask=inside, other=0).to(tl.float32)
        if BIAS:
            value -= shift
        total += tl.sum(up * value, axis=1)
        if DU:
            tl.store(du + at, (g * up).to(du.dtype.element_ty), mask=inside)
    tl.store(dg + (part * tl.num_programs(2) + b) * c + i, total, mask=chans)


def _axes(x: Tensor, channel: int) -> tuple[int, int, int, int, int, int]:
    """Return b, c, p and their strides; p is all other axes, which must lie one after another."""
    c, batch = x.shape[channel], x.shape[0]
    p = x.numel() // (c * batch)
    sp = 1 if channel == 1 and x.ndim == 4 and x.is_contiguous() else c
    return batch, c, p, x.stride(0), (p if sp == 1 else 1), sp


def _tile(c: int, p: int, sp: int) -> tuple[int, int]:
    return (4, min(512, triton.next_power_of_2(max(16, p)))) if sp == 1 else (64, 32)


def affine(u: Tensor, gain: Tensor, bias: Tensor | None, channel: int) -> Tensor:
    """Return g u + b in u's dtype and layout, computed in float32."""
    batch, c, p, sb, sc, sp = _axes(u, channel)
    bc, bp = _tile(c, p, sp)
    grid = (triton.cdiv(c, bc), triton.cdiv(p, bp), batch)
    step = 0 if bias is None or len(bias) == 1 else c
    y = torch.empty_like(u)
    _affine[grid](u, y, gain, bias, step, c, p, sb, sc, sp, BIAS=bias is not None, BC=bc, BP=bp)
    return y


def gradients(
    dy: Tensor, u: Tensor, gain: Tensor, channel: int, bias: Tensor | None = None, du: bool = True
) -> tuple[Tensor | None, Tensor]:
    """Return du = g dy in dy's dtype (None unless asked for) and sum(dy (u - b)) [b, c] in float32."""
    batch, c, p, sb, sc, sp = _axes(dy, channel)
    bc, bp = _tile(c, p, sp)
    parts = min(triton.cdiv(p, bp), max(1, 528 // (triton.cdiv(c, bc) * batch)))
    out = torch.empty_like(dy) if du else dy
    sums = torch.empty((parts, batch, c), dtype=torch.float32, device=dy.device)
    _gradients[(triton.cdiv(c, bc), parts, batch)](
        dy, u, gain, bias, 0 if bias is None or len(bias) == 1 else c, out, sums, c, p, sb, sc, sp, parts,
        BIAS=bias is not None, DU=du, BC=bc, BP=bp,
    )  # fmt: skip
    return (out if du else None), (sums[0] if parts == 1 else sums.sum(0))
