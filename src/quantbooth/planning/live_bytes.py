"""Live bytes: the memory of all storages that exist at the same time, counted operation by operation, and arithmetic.

    live(i) = sum of bytes of the storages that operations 1 .. i made and that are still referenced
    peak    = max over i of live(i)
    flops   = sum over products of matrices, convolutions and attentions of 2 x their multiplications

On fake tensors (`fake`) operations compute shapes alone, so a step of any size is counted in seconds and in no memory.
On the CPU a convolution of oneDNN works on copies of its tensors in a blocked layout, which the peak counts while it
computes; whatever else an operation uses inside of itself is not seen.

    forward         max(x + w, y), and y        x [b c h w], w [d c k l], y [b d h w]
    gradient of x   max(dy + w, dx), and dx     dy of the shape of y, dx of x
    gradient of w   dy + x, and dw
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from quantbooth.quant.format import unpacking_offsets

__all__ = ["LiveBytes", "emptied_", "fake"]

aten = torch.ops.aten


def _call(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make inside the block, and those given to `hold`, once each.

    What Python reads out of a fake tensor, which has no numbers, is 1 or true, and false where it is an `any`, so that
    checks of values pass. A mask selects the rows that `mark` says it has, else none.

    Args:
        call: calls an operation; `Memo` does it faster on fake tensors.
        copies: whether convolutions copy their tensors, as on the CPU.

    Attributes:
        live: bytes now.
        peak: the most since the block began or `restart` was called.
        flops: floating-point operations of products since then.
    """

    def __init__(
        self, call: Callable[[Callable[..., Any], Sequence[Any], dict[str, Any]], Any] = _call, copies: bool = True
    ) -> None:
        super().__init__()
        self._call, self._copies = call, copies
        self.live = self.peak = self.flops = 0
        self._sizes: dict[int, int] = {}
        self._true: dict[int, int] = {}

    def restart(self) -> None:
        """Let the peak and the arithmetic begin here."""
        self.peak, self.flops = self.live, 0

    def hold(self, tensors: Iterable[Tensor]) -> int:
        """Count tensors that exist already; return the bytes that were not counted yet."""
        before = self.live
        for tensor in tensors:
            self._count(tensor)
        return self.live - before

    def mark(self, mask: Tensor, true: int) -> Tensor:
        """Return a fake mask, of which this many rows are true from now on."""
        self._true[_key(mask)] = true
        return mask

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if args and isinstance(args[0], FakeTensor):
            if func is torch.ops.prim.device.default:  # half of all that is asked
                return args[0].fake_device
            if func is aten._local_scalar_dense.default:
                return self._number(args[0])
            if func is aten.equal.default:
                return True
            if func in MASKED and args[1][0] is not None and args[1][0].dtype == torch.bool:
                rows = torch.empty(self._true.get(_key(args[1][0]), 0), dtype=torch.int64, device=args[0].device)
                args = (args[0], [rows, *args[1][1:]], *args[2:])
        made = self._call(func, args, kwargs or {})
        if (formula := FLOPS.get(getattr(func, "overloadpacket", None))) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=made)
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        if self._copies and (copied := COPIES.get(func)) is not None:
            self.peak = max(self.peak, self.live + copied(made, *args))
        if func in NONE_TRUE:
            self.mark(made, 0)
        elif func in KEEP_TRUE and (true := self._true.get(_key(args[0]))) is not None:
            self.mark(made, true if func is not aten.bitwise_not.default else len(made) - true)
        return made

    def _number(self, tensor: Tensor) -> bool | int | float:
        if tensor.dtype == torch.bool:
            return bool(self._true.get(_key(tensor), 1))
        return 1.0 if tensor.is_floating_point() else 1

    def _count(self, tensor: Tensor) -> None:
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._sizes:
            self._change(size - self._sizes[key])  # resized in place
        else:
            self._change(size)
            weakref.finalize(storage, self._free, key).atexit = False
        self._sizes[key] = size

    def _free(self, key: int) -> None:
        self._true.pop(key, None)
        self._change(-self._sizes.pop(key))

    def _change(self, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Return the operations of softmax(Q K^T) V: two products; Q [b h n d], K [b h m d], V [b h m e]."""
    return 2 * query.shape[:3].numel() * key.shape[2] * (query.shape[3] + value.shape[3])


def _attention_backward(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> int:
    """Return those of its gradient: Q K^T again, three products of d and two of e numbers a pair."""
    return 2 * query.shape[:3].numel() * key.shape[2] * (3 * query.shape[3] + 2 * value.shape[3])


def _blocked(weight: Tensor) -> bool:
    """Return whether oneDNN computes in a blocked layout: not kernels of 1 x 1, and not other precisions."""
    return weight.dtype in (torch.float32, torch.bfloat16) and weight.shape[2:].numel() > 1


def _copied(made: Tensor, x: Tensor, weight: Tensor, *_: Any) -> int:
    return max(x.nbytes + weight.nbytes, made.nbytes) if _blocked(weight) else 0


def _copied_backward(made: Sequence[Tensor | None], grad: Tensor, x: Tensor, weight: Tensor, *_: Any) -> int:
    if not _blocked(weight):
        return 0
    to_input, to_weight = made[:2]
    sizes = [0] if to_input is None else [grad.nbytes + weight.nbytes, to_input.nbytes]
    return max(*sizes, 0 if to_weight is None else grad.nbytes + x.nbytes)


COPIES: dict[Any, Callable[..., int]] = {
    aten.convolution.default: _copied,
    aten.convolution_backward.default: _copied_backward,
}
FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""PyTorch's own formulas, and those of attention on a CPU, which it has none for."""
MASKED = (aten.index.Tensor, aten.index_put_.default)
NONE_TRUE = (aten.any.default, aten.any.dim)
KEEP_TRUE = (aten._to_copy.default, aten.bitwise_not.default)


@contextmanager
def fake() -> Iterator[FakeTensorMode]:
    """Make every tensor of the block a fake one, and leave none of them behind in a cache of real ones."""
    unpacking_offsets.cache_clear()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode
    finally:
        unpacking_offsets.cache_clear()


def emptied_(module: nn.Module, device: torch.device) -> None:
    """Give parameters and buffers on the meta device memory on a device; inside `fake` it costs none."""
    given: dict[int, Tensor] = {}
    for part in module.modules():
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            if not tensor.is_meta:
                continue
            learns = isinstance(tensor, nn.Parameter)
            if id(tensor) not in given:  # tied weights stay one
                made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
                given[id(tensor)] = nn.Parameter(made, requires_grad=tensor.requires_grad) if learns else made
            if learns:
                part.register_parameter(name, given[id(tensor)])  # type: ignore[arg-type]
            else:
                part.register_buffer(name, given[id(tensor)], name not in part._non_persistent_buffers_set)
