"""CUDA graphs on a CPU: `torch.cuda.make_graphed_callables` itself, on a graph that keeps PyTorch's operations.

Inside the block of a capture every operation is kept with its tensors; a replay computes each again and writes what it
makes to the same memory, as a card does. So what aliases a graph's memory (outputs, gradients) is written over here
too, and an operation that looks at a value ends the capture.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["without_a_card"]


class Graph(TorchDispatchMode):
    """Stands for `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        held = {one.untyped_storage().data_ptr() for one in tensors((args, kwargs))}
        if held and isinstance(made, int | float):  # a value was looked at
            raise RuntimeError(f"operation not permitted when stream is capturing: {operation}")
        new = [one for one in tensors(made) if one.untyped_storage().data_ptr() not in held]
        if new or operation._schema.is_mutable:  # a view has its memory already
            self.kept.append((operation, args, kwargs or {}, new))
        return made

    @torch.no_grad()
    def replay(self) -> None:
        """Compute the operations again, into the memory that they had."""
        for operation, args, kwargs, new in self.kept:
            made = operation(*args, **kwargs)
            for old, one in zip(new, tensors(made) if new else (), strict=True):
                old.copy_(one)


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@contextmanager
def _recording(graph: Graph, **_: Any) -> Iterator[None]:
    with graph:
        yield


def without_a_card(patch: pytest.MonkeyPatch) -> None:
    """Let `torch.cuda.make_graphed_callables` run on a CPU, and layers keep what they keep on a GPU."""
    patch.setattr("quantbooth.quant.per_channel._looks", lambda *_: False)
    patch.setattr(torch.cuda, "CUDAGraph", Graph)
    patch.setattr(torch.cuda, "graph", _recording)
    for name in ("Stream", "synchronize"):
        patch.setattr(torch.cuda, name, MagicMock())
    patch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    patch.setattr("torch.cuda.graphs.graph_pool_handle", MagicMock())
