"""The cache of a block: its inputs and target outputs for every item of a calibration set, and how they are captured.

A call's arguments and output are trees: tensors with a row per item, in tuples and mappings, beside what all calls have
alike (options, position embeddings). The tensors are in memory-mapped files, so a cache may be larger than memory.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

__all__ = ["BlockCache", "CallArgs", "Rows", "capture_inputs", "capture_output", "mapped_rows", "tensors_in"]


@dataclass(frozen=True)
class CallArgs:
    """The arguments of a call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def tensors_in(tree: Any) -> list[Tensor]:
    """Return the tensors of a module's arguments or output."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


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
def capture_output(module: nn.Module, call: Callable[[], Any]) -> Any:
    """Return the output of `module` when `call` runs; the call ends there.

    Raises:
        ValueError: when the call does not reach the module.
    """
    found: list[Any] = []

    def note(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
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


class Rows:
    """Trees of one structure, of which each tensor with a row per item is in a file; the rest is that of the first.

    Args:
        folder: for the files; the caller removes it.
        name: the beginning of their names.
        items: the number of items.
    """

    def __init__(self, folder: Path, name: str, items: int) -> None:
        self.folder, self.name, self.items = folder, name, items
        self._first: tuple[list[Any], Any] | None = None
        self._rows: dict[int, Tensor] = {}

    def record(self, indices: Sequence[int], tree: Any) -> None:
        """Store the rows of some items.

        Raises:
            ValueError: when the tree has another structure than the first, or another tensor without rows.
        """
        leaves, structure = tree_flatten(tree)
        if self._first is None:
            for number, leaf in enumerate(leaves):
                if _has_rows(leaf, len(indices)):
                    self._rows[number] = mapped_rows(self._path(number), self.items, leaf)
            self._first = ([None if number in self._rows else leaf for number, leaf in enumerate(leaves)], structure)
        if structure != self._first[1]:
            raise ValueError(f"all calls of a block must be alike, got {structure} after {self._first[1]}")
        for number, (leaf, first) in enumerate(zip(leaves, self._first[0], strict=True)):
            if number in self._rows:
                self._rows[number][list(indices)] = leaf.to("cpu")
            elif isinstance(leaf, Tensor) and not torch.equal(leaf, first):
                raise ValueError(f"a tensor without a row per item must be the same in all calls, got {leaf.shape}")

    def batch(self, indices: Sequence[int], device: torch.device) -> Any:
        """Return the tree of some items."""
        assert self._first is not None
        found = [leaf.to(device) if isinstance(leaf, Tensor) else leaf for leaf in self._first[0]]
        for number, kept in self._rows.items():
            found[number] = kept[list(indices)].to(device)
        return tree_unflatten(found, self._first[1])

    def remove(self) -> None:
        """Remove the files."""
        for number in self._rows:
            self._path(number).unlink()
        self._rows.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(rows.nbytes for rows in self._rows.values())

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.name}-{number:05d}.bin"


def _has_rows(leaf: Any, count: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == count


class BlockCache:
    """Calls of one module with their target outputs.

    Args:
        folder: for the files; the caller removes it.
        items: the number of items.
    """

    def __init__(self, folder: Path, items: int) -> None:
        self.items = items
        self._calls, self._targets = Rows(folder, "call", items), Rows(folder, "target", items)

    def record(self, indices: Sequence[int], call: CallArgs, target: Any) -> None:
        """Store the calls of some items."""
        self._calls.record(indices, (call.args, call.kwargs))
        self._targets.record(indices, target)

    def batch(self, indices: Sequence[int], device: torch.device) -> tuple[CallArgs, Any]:
        """Return the call of some items as one batch, and its target output."""
        return CallArgs(*self._calls.batch(indices, device)), self._targets.batch(indices, device)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return self._calls.nbytes + self._targets.nbytes


def mapped_rows(path: Path, items: int, like: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "items ..."]:
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
