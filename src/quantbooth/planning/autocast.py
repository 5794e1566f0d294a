"""Half precision as a card's autocast chooses it, on fake tensors of the CPU, whose own list of operations differs."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["DTYPES", "as_on_card", "half_precision"]

DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
FULL = ("group_norm", "layer_norm", "softmax")
"""Functions of these networks that autocast computes in float32 on CUDA, and not on the CPU."""


@contextmanager
def as_on_card(card: bool) -> Iterator[None]:
    """Let autocast compute FULL in float32 inside the block, also in what a backward computes again.

    A mode of torch functions would not reach the recomputation of checkpointing, so that the functions are replaced.
    """
    before = {name: getattr(F, name) for name in FULL}
    try:
        for name, function in before.items() if card else ():
            setattr(F, name, partial(_full, function))
        yield
    finally:
        for name, function in before.items():
            setattr(F, name, function)


def _full(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if torch.is_autocast_enabled("cpu"):
        args = tuple(each.float() if isinstance(each, Tensor) else each for each in args)
    return function(*args, **kwargs)


def half_precision(precision: str) -> AbstractContextManager[Any]:
    """Return a context of `trainer.precision`; 32-true changes nothing."""
    return torch.autocast("cpu", DTYPES[precision]) if precision in DTYPES else nullcontext()
