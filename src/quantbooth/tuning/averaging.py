"""Averages of learned numbers: what a run ends on is smoother than its last step.

    a_1 = p_1,    a_(n+1) = d_n a_n + (1 - d_n) p_(n+1),    d_n = min(decay, (1 + n) / (10 + n))

with p_n the numbers after step n. The ramp d_n forgets the first steps before the full decay is in force.

PyTorch's `AveragedModel` does the work, on the learned numbers alone: Lightning's callback would copy the whole stage,
frozen codes and text encoder included.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["Average"]

RAMP = 10


# Not Lightning's EMAWeightAveraging: it copies the whole module, codes and text encoder included.
class Average:
    """The average of numbers that an optimizer moves in place; call `update_` after each of its steps."""

    def __init__(self, numbers: Sequence[nn.Parameter], decay: float) -> None:
        self._current = nn.ParameterList(numbers)
        self._averaged = AveragedModel(self._current, multi_avg_fn=_ramped(decay))

    def update_(self) -> None:
        """Take the numbers as they are now into the average."""
        self._averaged.update_parameters(self._current)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While open, the numbers are their average; afterwards, and after an error, what they were bit for bit."""
        current = [numbers.detach().clone() for numbers in self._current]
        _copy_(self._current, self._averaged.module.parameters())
        try:
            yield
        finally:
            _copy_(self._current, current)


def _ramped(decay: float) -> Callable[..., None]:
    def average_(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        n = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (RAMP + n)))(averaged, current, count)

    return average_


@torch.no_grad()
def _copy_(to: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    for numbers, value in zip(to, values, strict=True):
        numbers.copy_(value)
