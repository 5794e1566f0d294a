"""What every tuner can do: attach parameters to a base, read, load, scale, join and split them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from quantbooth.diffusion.base import Base
from quantbooth.quant import scale_sets
from quantbooth.quant.selection import SetSelection
from quantbooth.timesteps.strategies import Strategy
from quantbooth.tuning.teacher import Distance

__all__ = ["Learning", "State", "Tuner"]

State = dict[str, Shaped[Tensor, "..."]]
"""Trained parameters, by name."""
Learning = dict[str, list[nn.Parameter]]
"""Trainable parameters by kind (gains, shifts, weights, adapters, identifier), each with an optional learning rate."""


class Tuner(ABC):
    """One way to personalize a base.

    Attributes:
        name: identifies the tuner in names of artifacts; it never changes.
        kind: of the artifact with the trained parameters.
        by_sample: whether parameters are selected per sample, so that several subjects can share a batch.
        has_base: whether set 0 of the tuned base is the untuned base.
    """

    name: str
    kind: str
    by_sample: bool = False
    has_base: bool = True

    @abstractmethod
    def check(self, strategy: Strategy, bits: int | None, stored: bool = False) -> None:
        """Raise UserError when this tuner does not support the strategy, the bit-width, or codes as they are stored."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the tuner's name and arguments, as JSON-compatible data for a manifest."""

    @abstractmethod
    def prepare_(self, base: Base, sets: int, selection: SetSelection, subjects: int = 1) -> Learning:
        """Attach trainable parameters to the base and return them: `sets` sets per subject, with equal values."""

    @abstractmethod
    def distance(self, base: Base) -> Distance:
        """Return the squared distance of the parameters from their values in a base that was just prepared."""

    @abstractmethod
    def state(self, base: Base) -> State:
        """Return a copy of the trained parameters."""

    @abstractmethod
    def load_(self, base: Base, state: State, sets: int, selection: SetSelection) -> None:
        """Load trained parameters into an untuned base.

        Raises:
            UserError: when names or shapes do not fit the base, naming the first difference.
        """

    @abstractmethod
    def scaled(self, base: Base, state: State, shares: Float[Tensor, " sets"]) -> State:
        """Return a state with the share s_k of the step from the untuned base in set k; 1 is the state itself."""

    @abstractmethod
    def join(self, states: Sequence[State]) -> State:
        """Join the states of separate runs, of experts of one subject or of several subjects, into one."""

    def part(self, state: State, subjects: int) -> list[State]:
        """Split a state into one per subject; the inverse of `join`."""
        return scale_sets.unstack(state, subjects) if self.by_sample else [state]
