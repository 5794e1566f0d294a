"""Contrasts: two sentences to swap while one picture is drawn, and the attributes in which they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quantbooth.data.questions import GENERAL
from quantbooth.errors import UserError

__all__ = ["Contrast", "contrasts_of", "general_contrasts"]


@dataclass(frozen=True)
class Contrast:
    """A pair of sentences.

    Attributes:
        first: the sentence a picture is begun with.
        second: the sentence it is finished with.
        seed: with the first sentence decides the noise.
        attributes: name -> (as the first asks, as the second asks), where the world can tell; never equal.
    """

    first: str
    second: str
    seed: int
    attributes: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        alike = [name for name, (before, after) in self.attributes.items() if before == after]
        if self.first == self.second or alike:
            raise UserError(f"the sentences of a pair must differ, got {self.first!r} and {self.second!r}")


def contrasts_of(pairs: Sequence[Sequence[str]], count: int, seed: int) -> tuple[Contrast, ...]:
    """`count` contrasts: all pairs with noise seed `seed`, then all with the next one, and so on.

    Raises:
        UserError: for what is no list of pairs of sentences.
    """
    if not pairs or any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
        raise UserError(f"probe.pairs must be pairs of sentences such as [['a dog','a red car']], got {pairs!r}")
    return tuple(
        Contrast(pairs[place % len(pairs)][0], pairs[place % len(pairs)][1], seed + place // len(pairs))
        for place in range(count)
    )


def general_contrasts(count: int, seed: int) -> tuple[Contrast, ...]:
    """Neighbours among the general prompts; a scorer must tell which of the two a picture shows."""
    return contrasts_of(list(zip(GENERAL, GENERAL[1:] + GENERAL[:1], strict=True)), count, seed)
