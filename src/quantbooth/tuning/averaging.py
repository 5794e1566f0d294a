"""Exponential moving average (EMA) of the trainable parameters.

    a_1 = p_1,    a_(n+1) = d_n a_n + (1 - d_n) p_(n+1),    d_n = min(decay, (1 + n) / (10 + n))

with p_n the parameters after step n. The ramp d_n reduces the influence of the first steps until it reaches the decay.

PyTorch's `AveragedModel` averages the trainable parameters only: Lightning's callback would copy the whole module,
including frozen codes and the text encoder.
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
    """The EMA of parameters that an optimizer updates in place; call `update_` after each step."""

    def __init__(self, numbers: Sequence[nn.Parameter], decay: float) -> None:
        self._current = nn.ParameterList(numbers)
        self._averaged = AveragedModel(self._current, multi_avg_fn=_ramped(decay))

    def update_(self) -> None:
        """Update the EMA with the current parameters."""
        self._averaged.update_parameters(self._current)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The EMA itself, with the count of its updates, by name."""
        return dict(self._averaged.state_dict())

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Set the parameters to their EMA inside the block, and restore them afterwards, also after an error."""
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
