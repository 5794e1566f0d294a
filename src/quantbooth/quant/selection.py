"""Which scale set serves each sample of the batch in flight.

One `Selection` is shared by all layers of a model. It holds one whole number a sample: 0 is the base (gain 1), k >= 1
is set k. Choose before the forward, and leave it alone until the backward is over: activation checkpointing reads it
again there.
"""

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor


class Selection:
    """The set index of every sample, chosen once per step from outside.

    A deep copy of a model shares its Selection with the original, so whoever chooses for one chooses for both; a copy
    of its own would go on with a stale choice unnoticed.
    """

    def __init__(self) -> None:
        self._index: Tensor | None = None
        self._largest = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "Selection":
        return self

    def choose(self, index: Int64[Tensor, " b"]) -> None:
        """Serve sample i by set index[i] from now on; the tensor is copied.

        Raises:
            ValueError: when index is not a non-empty int64 vector of numbers >= 0.
        """
        if index.dtype != torch.int64 or index.ndim != 1 or index.numel() == 0:
            raise ValueError(f"index must be a non-empty int64 vector, got {index.dtype} of shape {tuple(index.shape)}")
        if int(index.min()) < 0:
            raise ValueError(f"index must be >= 0 (0 = base), got {int(index.min())}")
        self._index, self._largest = index.detach().clone(), int(index.max())

    def clear(self) -> None:
        """Forget the choice, so that the next forward raises instead of using it."""
        self._index = None

    @property
    def index(self) -> Int64[Tensor, " b"]:
        """The set index of every sample.

        Raises:
            RuntimeError: when nothing was chosen.
        """
        if self._index is None:
            raise RuntimeError("a set must be chosen for every sample before the forward: call Selection.choose(index)")
        return self._index

    def checked(self, batch: int, sets: int) -> Int64[Tensor, " b"]:
        """The index, for a layer that holds `sets` sets and was given `batch` samples.

        Raises:
            RuntimeError: when nothing was chosen, for another batch size, or a set the layer does not hold.
        """
        index = self.index
        if len(index) != batch:
            raise RuntimeError(f"the selection must cover the batch: chosen for {len(index)} samples, got {batch}")
        if self._largest > sets:
            raise RuntimeError(f"the selection must name sets in [0, {sets}], got {self._largest}")
        return index
