"""Held-out prompts to measure a base with, and pairs of prompts to swap during sampling."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from jaxtyping import Float
from torch import Tensor

from quantbooth.data.prompts import as_read
from quantbooth.runtime.errors import UserError

__all__ = [
    "Contrast",
    "GENERAL",
    "Question",
    "Questions",
    "contrasts_of",
    "general_contrasts",
    "general_questions",
    "questions_of",
    "require_all",
    "require_distinct",
]

GENERAL = (
    "a photo of a dog running on the beach",
    "a red bicycle leaning against a brick wall",
    "a bowl of fruit on a wooden table",
    "a lighthouse at sunset",
    "an old man with a white beard reading a newspaper",
    "a city street in the rain at night",
    "a close-up of a yellow flower with a bee on it",
    "two children building a sandcastle",
    "a steaming cup of coffee beside an open book",
    "a snowy mountain reflected in a lake",
    "a watercolour painting of a village in spring",
    "a black cat sleeping on a blue sofa",
    "a vintage car parked in front of a diner",
    "an astronaut riding a horse",
    "a kitchen with green cupboards and a large window",
    "a plate of spaghetti with tomato sauce and basil",
    "a portrait of a woman wearing a straw hat",
    "a wooden boat on a calm river in fog",
    "a robot watering plants in a greenhouse",
    "a stack of colourful books on a white shelf",
)
"""Prompts of everyday scenes, for any text-to-image model; written for this project."""


@dataclass(frozen=True)
class Question:
    """One prompt for a base.

    Attributes:
        text: the prompt.
        seed: decides the noise, with the prompt.
        asked: attributes that it asks for, by name; toy world only.
    """

    text: str
    seed: int
    asked: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Questions:
    """The prompts that one base is measured on.

    Attributes:
        name: a short description.
        each: the questions, with distinct (text, seed).
        pictures: the true picture of each, in [0, 1]; None where there is no ground truth.

    Raises:
        ValueError: when there are none, two are equal, or the number of pictures differs.
    """

    name: str
    each: tuple[Question, ...]
    pictures: Float[Tensor, "n 3 h w"] | None = None

    def __post_init__(self) -> None:
        if not self.each:
            raise ValueError(f"there must be at least one question, got none from {self.name}")
        if len({(question.text, question.seed) for question in self.each}) < len(self.each):
            raise ValueError(f"no two questions may have text and seed alike, got such from {self.name}")
        if self.pictures is not None and len(self.pictures) != len(self.each):
            raise ValueError(f"every question needs its picture, got {len(self.pictures)} for {len(self.each)}")

    @property
    def fingerprint(self) -> str:
        """A digest that changes with any prompt, seed, attribute or pixel."""
        digest = hashlib.sha256(json.dumps([asdict(question) for question in self.each], sort_keys=True).encode())
        if self.pictures is not None:
            digest.update(self.pictures.float().numpy().tobytes())
        return digest.hexdigest()


def questions_of(
    texts: Sequence[str], count: int, seed: int, name: str = "given prompts", option: str = "prompts"
) -> Questions:
    """Return `count` questions: all prompts with noise seed `seed`, then all with the next seed, and so on.

    Raises:
        UserError: naming the option, when there are no prompts, one is empty, or one is given twice.
    """
    if isinstance(texts, str) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"{option} must be a list of sentences such as [a dog,a red car], got {texts!r}")
    require_distinct(texts, option)
    each = tuple(Question(texts[place % len(texts)], seed + place // len(texts)) for place in range(count))
    return Questions(f"{min(count, len(texts))} {name}", each)


def require_distinct(texts: Sequence[str], option: str) -> None:
    """Refuse prompts that a text encoder reads alike.

    Raises:
        UserError: naming the option and the second one.
    """
    seen: dict[str, str] = {}
    for text in texts:
        if (first := seen.get(as_read(text))) is not None:
            like = "again" if first == text else f"and {first!r}, which is read alike"
            raise UserError(f"each of {option} must be given once, got {text!r} {like}")
        seen[as_read(text)] = text


def require_all(given: Sequence[object], option: str, count: int, counted: str) -> None:
    """Refuse given prompts that a number leaves out.

    Raises:
        UserError: naming both options.
    """
    if count < len(given):
        left = len(given) - count
        raise UserError(f"{counted}={count} leaves {left} of {len(given)} {option} out; raise it, or give fewer")


def general_questions(count: int, seed: int) -> Questions:
    """Return questions of the prompts in GENERAL, which have no true pictures."""
    return questions_of(GENERAL, count, seed, "general prompts")


@dataclass(frozen=True)
class Contrast:
    """A pair of prompts, the first of which is swapped for the second during sampling.

    Attributes:
        first: the prompt of the first steps.
        second: the prompt of the last steps.
        seed: decides the noise, with the first prompt.
        attributes: name -> (value in the first, value in the second), never equal; toy world only.
    """

    first: str
    second: str
    seed: int
    attributes: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        alike = [name for name, (before, after) in self.attributes.items() if before == after]
        if as_read(self.first) == as_read(self.second) or alike:
            raise UserError(f"the sentences of a pair must differ, got {self.first!r} and {self.second!r}")


def contrasts_of(pairs: Sequence[Sequence[str]], count: int, seed: int) -> tuple[Contrast, ...]:
    """Return `count` contrasts: all pairs with noise seed `seed`, then all with the next seed, and so on."""
    return tuple(
        Contrast(pairs[place % len(pairs)][0], pairs[place % len(pairs)][1], seed + place // len(pairs))
        for place in range(count)
    )


def general_contrasts(count: int, seed: int) -> tuple[Contrast, ...]:
    """Return contrasts of consecutive general prompts; a scorer decides which of the two a picture shows."""
    return contrasts_of(list(zip(GENERAL, GENERAL[1:] + GENERAL[:1], strict=True)), count, seed)
