"""A gain and a shift per channel and sample, y = g * u + b, with gradients, also on a model's normalizations.

    dL/db = sum(dL/dy)          over all axes but the batch and the channel
    dL/dg = sum(dL/dy * u)
    dL/du = g * dL/dy

For dL/dg autograd saves one activation, y, and only where g is trainable: u = (y - b) / g. The next operation often
saves y anyway, never u. With a shift the division is safe in float32 while |g| >= 0.1 (y has an error of eps |y|, which
is multiplied by 1 / |g|); below that u itself is saved instead. On a GPU and in bfloat16 u is saved too, unless the
shift was found small beside g * u (see `small_biases`). Without a shift y has the relative error of u, whatever g is,
in bfloat16 too.

On a GroupNorm, LayerNorm or RMSNorm, y = g * norm(x) + b is computed by a forward hook: the module keeps its class,
which diffusers checks in places, and its own weight and bias stay frozen.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from quantbooth.quant.kernels.choice import fused_for
from quantbooth.quant.selection import INITIAL_VALUES, SetSelection, register_sets_, selected_rows

__all__ = [
    "affine",
    "attach_",
    "bias_of",
    "detach_",
    "gained",
    "gradients",
    "in_layout",
    "keeps_output",
    "normalizations",
    "require_full",
    "summed",
]

SAFE_GAIN = 0.1
FULL = (torch.float32, torch.float64)


def gained(
    u: Float[Tensor, "b ..."], gain: Float[Tensor, "b c"], shift: Float[Tensor, "#b c"] | None, channel: int
) -> Float[Tensor, "b ..."]:
    """Return y = g * u + b in u's dtype, sample i with row i; g = 1 and b = 0 give u bit for bit.

    Raises:
        RuntimeError: when a trainable parameter has half precision: near 1 it cannot represent small steps.
    """
    require_full(gain, shift)
    y: Tensor = _Gained.apply(u, gain, shift, channel, keeps_output(gain, shift, u.dtype))
    return y


class _Gained(torch.autograd.Function):
    """The formulas above on an existing activation."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, gain: Tensor, shift: Tensor | None, channel: int, keep_y: bool) -> Tensor:
        _, need_gain, _ = ctx.needs_input_grad[:3]
        y = affine(u, gain, shift, channel)
        ctx.channel, ctx.keep_y, ctx.dtype, ctx.y_stride = channel, keep_y, u.dtype, y.stride()
        ctx.shift_rows = 0 if shift is None else len(shift)
        ctx.save_for_backward(gain, shift if keep_y else None, (y if keep_y else u) if need_gain else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        gain, shift, kept = ctx.saved_tensors
        need_u, need_gain, need_shift = ctx.needs_input_grad[:3]
        dy = in_layout(dy, ctx.y_stride)
        du, dgain = gradients(dy, kept, ctx.keep_y, gain, shift, ctx.channel, need_u, need_gain)
        dshift = summed(dy, None, ctx.channel, ctx.shift_rows) if need_shift else None
        return du, dgain, dshift, None, None


def keeps_output(
    gain: Float[Tensor, "b c"] | None, shift: Float[Tensor, "#b c"] | None, dtype: torch.dtype, small: bool = False
) -> bool:
    """Return whether y, not u, is saved for dL/dg; False where g is frozen and neither is needed.

    A GPU would be waited for, and graphs, of CUDA and of `torch.compile`, cannot decide by values. There, and in
    bfloat16, y is saved where nothing is added to it, or something `small`.
    """
    if gain is None or not gain.requires_grad:
        return False
    if _looks(gain.device, dtype):
        return bool(gain.detach().abs().min() >= SAFE_GAIN)
    return (shift is None or small) and dtype != torch.float16


def require_full(*numbers: Tensor | None) -> None:
    """Raise RuntimeError unless all trainable tensors have full precision."""
    for tensor in numbers:
        if tensor is not None and tensor.requires_grad and tensor.dtype not in FULL:
            raise RuntimeError(f"gains must be float32 to be trained, got {tensor.dtype}: cast the activations instead")


def affine(
    u: Float[Tensor, "b ..."], gain: Float[Tensor, "b c"] | None, shift: Float[Tensor, "#b c"] | None, channel: int
) -> Float[Tensor, "b ..."]:
    """Return g * u + b in the widest dtype, rounded once to u's; without a gain, b is added to u in place."""
    b = None if shift is None else along(shift, channel, u.ndim)
    if gain is None:
        return u if b is None else u.add_(b)
    if (fused := fused_for(u)) is not None:
        y: Tensor = fused.affine(u, gain, shift, channel)
        return y
    g = along(gain, channel, u.ndim)
    return (g * u if b is None else torch.addcmul(b, g, u)).to(u.dtype)


def gradients(
    dy: Float[Tensor, "b ..."],
    kept: Float[Tensor, "b ..."] | None,
    kept_is_y: bool,
    gain: Float[Tensor, "b c"],
    shift: Float[Tensor, "#b c"] | None,
    channel: int,
    need_du: bool,
    need_dg: bool,
) -> tuple[Float[Tensor, "b ..."] | None, Float[Tensor, "b c"] | None]:
    """Return du = g * dy in dy's dtype and dg = sum(dy * u), each where it is needed.

    Args:
        dy: the gradient of y.
        kept: what the forward saved for dg: u, or y with u = (y - b) / g; None where dg is not needed.
        kept_is_y: whether it is y.
        gain: g.
        shift: b, where y was saved.
        channel: the channel axis.
        need_du: whether du is wanted.
        need_dg: whether dg is wanted.
    """
    if kept is not None and need_dg and (fused := fused_for(dy)) is not None:
        added = shift if kept_is_y else None
        made: tuple[Tensor | None, Tensor] = fused.gradients(dy, kept, gain, added, channel, need_du)
        return (made[0], made[1] / _divisor(gain, kept)) if kept_is_y else made
    dg = _gain_gradient(dy, kept, kept_is_y, gain, shift, channel) if kept is not None and need_dg else None
    return affine(dy, gain, None, channel) if need_du else None, dg


def _gain_gradient(
    dy: Tensor, kept: Tensor, kept_is_y: bool, gain: Tensor, shift: Tensor | None, channel: int
) -> Tensor:
    if not kept_is_y:
        return summed(dy, kept, channel)
    gain_times_u = kept if shift is None else kept - along(shift, channel, kept.ndim)
    return summed(dy, gain_times_u, channel) / _divisor(gain, kept)


def _divisor(gain: Tensor, kept: Tensor) -> Tensor:
    """Return g, and 1 for a gain of exactly 0, whose gradient is 0 then, where `keeps_output` did not look at it."""
    return gain if _looks(kept.device, kept.dtype) else torch.where(gain == 0, 1.0, gain)


def _looks(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether values of gains decide what is saved."""
    return dtype in FULL and device.type == "cpu" and not torch.compiler.is_compiling()


def summed(
    dy: Float[Tensor, "b ..."], u: Float[Tensor, "b ..."] | None, channel: int, rows: int | None = None
) -> Float[Tensor, "b c"]:
    """Return sum(dy * u) over all axes but the batch and the channel, in at least float32.

    Args:
        dy: the gradient.
        u: of the same shape; None is 1.
        channel: the channel axis.
        rows: the batch size, or 1 to sum over the batch too.
    """
    wide = torch.promote_types(dy.dtype, torch.float32)
    terms = dy.to(wide) if u is None else dy * u.to(wide)
    batch, channels = dy.shape[0] if rows is None else rows, dy.shape[channel]
    return terms.sum_to_size(_shape(batch, channels, channel, dy.ndim)).reshape(batch, channels)


def in_layout(dy: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Return dy with the strides of y: reentrant checkpointing changes them, and sums must not depend on them."""
    return dy if dy.stride() == stride else dy.new_empty_strided(dy.shape, stride).copy_(dy)


def along(values: Float[Tensor, "b c"], channel: int, ndim: int) -> Float[Tensor, "b ..."]:
    """View per-channel values so that they broadcast against an activation."""
    return values.view(_shape(values.shape[0], values.shape[1], channel, ndim))


def _shape(batch: int, channels: int, channel: int, ndim: int) -> list[int]:
    shape = [batch] + [1] * (ndim - 1)
    shape[channel] = channels
    return shape


RMS = "RMSNorm"
"""The name of the class, of torch's own and of diffusers', which is no subclass of it."""
HANDLE = "sets_hook"


def normalizations(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield every GroupNorm, LayerNorm and RMSNorm with a weight per channel, with its name, in the model's order."""
    for name, module in model.named_modules():
        rms = any(kind.__name__ == RMS for kind in type(module).__mro__)
        if rms or isinstance(module, nn.GroupNorm | nn.LayerNorm):
            weight = module.weight
            if isinstance(weight, Tensor) and weight.ndim == 1:
                yield name, module


def bias_of(norm: nn.Module) -> Tensor | None:
    """Return the bias of a normalization; torch's RMSNorm has no such attribute."""
    found: Tensor | None = getattr(norm, "bias", None)
    return found


def attach_(norm: Any, count: int, selection: SetSelection) -> None:
    """Attach `count` sets to a normalization: a gain per channel, and a shift where it has a bias."""
    channels, channel = len(norm.weight), 1 if isinstance(norm, nn.GroupNorm) else -1
    sizes = {"gain_out": channels} | ({} if bias_of(norm) is None else {"shift": channels})
    register_sets_(norm, sizes, count, selection, norm.weight.device)
    # A hook, not a wrapper: diffusers looks at the class of some normalizations.
    setattr(norm, HANDLE, norm.register_forward_hook(partial(_with_sets, channel)))


def detach_(norm: nn.Module) -> None:
    """Undo `attach_` completely."""
    getattr(norm, HANDLE).remove()
    for name in (HANDLE, *INITIAL_VALUES, "selection"):
        delattr(norm, name)


def _with_sets(channel: int, norm: nn.Module, _inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
    gain = selected_rows(norm, "gain_out", len(y))
    return y if gain is None else gained(y, gain, selected_rows(norm, "shift", len(y)), channel)
