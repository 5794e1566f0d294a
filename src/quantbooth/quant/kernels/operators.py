"""The functions of `fused` as operators of PyTorch, so that `torch.compile` has a layer in its graph without a break.

Each has a fake implementation, which says shape, dtype and strides of its results; the numbers are those of `fused`,
which is imported where an operator first computes. They have no gradients of their own: the functions of autograd that
call them have.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

__all__ = ["affine", "dense", "dequantize", "gradients", "select", "select_gradient"]


def dense(x: Tensor, channel: int) -> Tensor:
    """Return x, or a contiguous copy where it has gaps or another layout than the two of `fused`."""
    if x.is_contiguous() or (channel == 1 and x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return x.contiguous()


def _fused() -> Any:
    return import_module("quantbooth.quant.kernels.fused")


@custom_op("quantbooth::dequantize", mutates_args=())
def dequantize(
    codes: Tensor, scale: Tensor, zero: Tensor, bits: int, split: list[int], rest: list[int], dtype: torch.dtype
) -> Tensor:
    """Return W = (q - z) s0 (see `fused`)."""
    made: Tensor = _fused().dequantize(codes, scale, zero, bits, tuple(split), tuple(rest), dtype)
    return made


@dequantize.register_fake
def _(
    codes: Tensor, scale: Tensor, zero: Tensor, bits: int, split: list[int], rest: list[int], dtype: torch.dtype
) -> Tensor:
    return codes.new_empty((codes.shape[0], sum(split), *rest), dtype=dtype)


@custom_op("quantbooth::affine", mutates_args=())
def affine(u: Tensor, gain: Tensor, shift: Tensor | None, channel: int) -> Tensor:
    """Return y = g u + b (see `fused`)."""
    made: Tensor = _fused().affine(u, gain, shift, channel)
    return made


@affine.register_fake
def _(u: Tensor, gain: Tensor, shift: Tensor | None, channel: int) -> Tensor:
    return torch.empty_like(dense(u, channel))


@custom_op("quantbooth::gradients", mutates_args=())
def _gradients(
    dy: Tensor, u: Tensor, gain: Tensor, shift: Tensor | None, channel: int, need_du: bool
) -> tuple[Tensor, Tensor]:
    du, dg = _fused().gradients(dy, u, gain, shift, channel, need_du)
    return dy.new_empty(0) if du is None else du, dg


@_gradients.register_fake
def _(dy: Tensor, u: Tensor, gain: Tensor, shift: Tensor | None, channel: int, need_du: bool) -> tuple[Tensor, Tensor]:
    du = torch.empty_like(dense(dy, channel)) if need_du else dy.new_empty(0)
    return du, dy.new_empty((dy.shape[0], dy.shape[channel]), dtype=torch.float32)


def gradients(
    dy: Tensor, u: Tensor, gain: Tensor, shift: Tensor | None, channel: int, need_du: bool
) -> tuple[Tensor | None, Tensor]:
    """Return du = g dy, where asked for, and sum(dy (u - b)) (see `fused`)."""
    du, dg = _gradients(dy, u, gain, shift, channel, need_du)
    return du if need_du else None, dg


@custom_op("quantbooth::select", mutates_args=())
def select(values: Tensor, choice: Tensor, start: float) -> Tensor:
    """Return the row of each sample's set (see `fused`)."""
    made: Tensor = _fused().select(values, choice, start)
    return made


@select.register_fake
def _(values: Tensor, choice: Tensor, start: float) -> Tensor:
    return values.new_empty((choice.shape[0], values.shape[1]))


@custom_op("quantbooth::select_gradient", mutates_args=())
def select_gradient(drows: Tensor, choice: Tensor, sets: int) -> Tensor:
    """Return the gradient of `select` (see `fused`)."""
    made: Tensor = _fused().select_gradient(drows, choice, sets)
    return made


@select_gradient.register_fake
def _(drows: Tensor, choice: Tensor, sets: int) -> Tensor:
    return drows.new_empty((sets, drows.shape[1]))
