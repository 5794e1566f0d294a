"""Exponential moving average (EMA) of the trainable parameters.

    a_1 = p_1,    a_(n+1) = d_n a_n + (1 - d_n) p_(n+1),    d_n = min(decay, (1 + n) / (10 + n))

with p_n the parameters after step n. The ramp d_n reduces the influence of the first steps until it reaches the decay.

PyTorch's `AveragedModel` counts updates on the device of the parameters, and a GPU would be waited for at every step;
Lightning's callback copies the whole module, including frozen codes and the text encoder.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["Average"]

RAMP = 10


class Average:
    """The EMA of parameters that an optimizer updates in place; call `update_` after each step."""

    def __init__(self, numbers: Sequence[nn.Parameter], decay: float) -> None:
        self._current, self._decay = list(numbers), decay
        self._averaged = [numbers.detach().clone() for numbers in self._current]
        self._count = torch.zeros((), dtype=torch.int64)  # of updates, on the CPU

    @torch.no_grad()
    def update_(self) -> None:
        """Update the EMA with the current parameters."""
        n = int(self._count)
        if n == 0:
            _copy_(self._averaged, self._current)
        else:
            decay = min(self._decay, (1 + n) / (RAMP + n))
            get_ema_multi_avg_fn(decay)(self._averaged, [numbers.detach() for numbers in self._current], n)
        self._count += 1

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The EMA itself, with the count of its updates, by name."""
        return {"n_averaged": self._count} | {f"module.{place}": one for place, one in enumerate(self._averaged)}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Set the parameters to their EMA inside the block, and restore them afterwards, also after an error."""
        current = [numbers.detach().clone() for numbers in self._current]
        _copy_(self._current, self._averaged)
        try:
            yield
        finally:
            _copy_(self._current, current)


@torch.no_grad()
def _copy_(to: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    for numbers, value in zip(to, values, strict=True):
        numbers.copy_(value)
