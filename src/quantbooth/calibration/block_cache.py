"""The cache of a block: its inputs and target outputs for every item of a calibration set, and how they are captured.

The tensors are in memory-mapped files, so a cache may be larger than memory.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["CallArgs", "BlockCache", "capture_inputs", "capture_output", "mapped_rows"]


@dataclass(frozen=True)
class CallArgs:
    """The arguments of a call."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class _StopForward(Exception):
    """Ends a forward early."""


@torch.no_grad()
def capture_inputs(module: nn.Module, call: Callable[[], Any]) -> CallArgs:
    """Return the arguments that `module` gets when `call` runs; the call ends there.

    Raises:
        ValueError: when the call does not reach the module.
    """
    found: list[CallArgs] = []

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(CallArgs(args, kwargs))
        raise _StopForward

    return _run(module.register_forward_pre_hook(note, with_kwargs=True), call, found)


@torch.no_grad()
def capture_output(module: nn.Module, call: Callable[[], Any]) -> Tensor:
    """Return the output of `module` when `call` runs; the call ends there.

    Raises:
        ValueError: when the call does not reach the module.
    """
    found: list[Tensor] = []

    def note(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        found.append(output)
        raise _StopForward

    return _run(module.register_forward_hook(note), call, found)


def _run(hook: Any, call: Callable[[], Any], found: list[Any]) -> Any:
    try:
        call()
    except _StopForward:
        return found[0]
    finally:
        hook.remove()
    raise ValueError("the call must reach the module whose inputs or output are wanted, and it did not")


TARGET = "target"


class BlockCache:
    """Calls of one module: each tensor argument has a row per item, other arguments are equal in all calls.

    Args:
        folder: for the files; the caller removes it.
        items: the number of items.
    """

    def __init__(self, folder: Path, items: int) -> None:
        self.folder, self.items = folder, items
        self._rows: dict[str, Tensor] = {}
        self._first: CallArgs | None = None

    def record(self, indices: Sequence[int], call: CallArgs, target: Float[Tensor, "b ..."]) -> None:
        """Store the calls of some items."""
        self._first = self._first or CallArgs(
            tuple(None if isinstance(value, Tensor) else value for value in call.args),
            {key: None if isinstance(value, Tensor) else value for key, value in call.kwargs.items()},
        )
        for key, value in (*_named(call).items(), (TARGET, target)):
            if key not in self._rows:
                self._rows[key] = mapped_rows(self.folder / f"{key}.bin", self.items, value)
            self._rows[key][list(indices)] = value.to("cpu")

    def batch(self, indices: Sequence[int], device: torch.device) -> tuple[CallArgs, Float[Tensor, "b ..."]]:
        """Return the call of some items as one batch, and its target output."""
        assert self._first is not None
        rows = {key: kept[list(indices)].to(device) for key, kept in self._rows.items()}
        args = tuple(rows.get(_at(index), value) for index, value in enumerate(self._first.args))
        kwargs = {key: rows.get(key, value) for key, value in self._first.kwargs.items()}
        return CallArgs(args, kwargs), rows[TARGET]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(rows.nbytes for rows in self._rows.values())


def mapped_rows(path: Path, items: int, like: Float[Tensor, "b ..."]) -> Float[Tensor, "items ..."]:
    """Return a new memory-mapped file with a row per item.

    The disk space is allocated at once: writing to a mapped file on a full disk would kill the process.

    Raises:
        OSError: when the disk is full.
    """
    shape = torch.Size((items, *like.shape[1:]))
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):  # not on every system
            os.posix_fallocate(file.fileno(), 0, shape.numel() * like.element_size())
    return torch.from_file(str(path), shared=True, size=shape.numel(), dtype=like.dtype).view(shape)


def _at(index: int) -> str:
    """Return the key of a positional argument; no keyword is a number."""
    return str(index)


def _named(call: CallArgs) -> dict[str, Tensor]:
    arguments: dict[str, Any] = {_at(index): value for index, value in enumerate(call.args)} | dict(call.kwargs)
    return {key: value for key, value in arguments.items() if isinstance(value, Tensor)}
