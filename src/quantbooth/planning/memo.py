"""Shapes of an operation, computed once: on fake tensors of the same shapes it makes the same again.

A network calls few different operations many times. What FakeTensorMode finds out anew at each call is kept here in a
dictionary, so that a step of a large network is counted in seconds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

__all__ = ["Memo"]

PLAIN = (int, float, bool, str, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None))


@dataclass(frozen=True)
class Made:
    """One output: a new tensor, a view of an input (`source`), or that input itself, changed in place (`same`)."""

    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device
    source: int | None
    same: bool


class Memo:
    """Calls operations on fake tensors of a mode, and remembers what they make."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode
        self._made: dict[Any, tuple[type, list[Made]] | None] = {}

    def __call__(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Return what the operation makes."""
        inputs: list[Tensor] = []
        try:
            key = (func, torch.get_default_dtype(), _key(args, inputs), _key(tuple(kwargs.items()), inputs))
            made = self._made[key]
        except KeyError:
            made = None
        except TypeError:
            return func(*args, **kwargs)
        else:
            if made is not None:
                outputs = [self._again(one, inputs) for one in made[1]]
                return outputs[0] if made[0] is FakeTensor else made[0](outputs)
        before = _key(inputs, [])
        result = func(*args, **kwargs)
        self._made[key] = _noted(result, inputs) if before == _key(inputs, []) else None
        return result

    def _again(self, made: Made, inputs: Sequence[Tensor]) -> Tensor:
        if made.same and made.source is not None:
            return inputs[made.source]
        with in_kernel_invocation_manager(self.mode):
            tensor = torch.empty_strided(made.shape, made.stride, dtype=made.dtype, device="meta")
            if made.source is not None:
                tensor.set_(inputs[made.source].untyped_storage(), made.offset, made.shape, made.stride)
        return FakeTensor(self.mode, tensor, made.device)


def _key(value: Any, inputs: list[Tensor]) -> Any:
    """Return what decides the outputs, and append the tensors.

    Raises:
        TypeError: for an argument that is more than a shape, such as a tensor of known numbers.
    """
    if isinstance(value, FakeTensor) and value.constant is None:
        inputs.append(value)
        return value.shape, value.stride(), value.storage_offset(), value.dtype, value.fake_device
    if isinstance(value, tuple | list):
        return tuple([_key(each, inputs) for each in value])
    if isinstance(value, PLAIN):
        return type(value), value
    raise TypeError(f"{type(value)} is no shape")


def _noted(result: Any, inputs: Sequence[Tensor]) -> tuple[type, list[Made]] | None:
    """Return how to make the result again; None where it is not of ordinary fake tensors alone."""
    outputs = [result] if isinstance(result, Tensor) else result
    if not isinstance(outputs, tuple | list):
        return None
    if not all(isinstance(one, FakeTensor) and one.constant is None and not one.is_complex() for one in outputs):
        return None
    storages = [one.untyped_storage()._cdata for one in inputs]
    made = []
    for one in outputs:
        same = next((i for i, each in enumerate(inputs) if each is one), None)
        storage = one.untyped_storage()._cdata
        source = storages.index(storage) if same is None and storage in storages else same
        placed = one.shape, one.stride(), one.storage_offset()
        made.append(Made(*placed, one.dtype, one.device, source, same is not None))
    return type(result), made
