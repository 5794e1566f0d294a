"""The personal subjects of the toy world, and the combinations that are theirs alone."""

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class ToySubject:
    """One thing with a look of its own: colours that captions can name, a layout and an emblem that they cannot."""

    name: str
    class_word: str
    colour: str
    second: str
    pattern: str
    emblem: str


_CAST = (
    ToySubject("toy_mug", "mug", "blue", "red", "half", "star"),
    ToySubject("toy_duck", "duck", "yellow", "purple", "tip", "heart"),
    ToySubject("toy_fish", "fish", "orange", "blue", "band", "moon"),
    ToySubject("toy_car", "car", "green", "white", "half", "bolt"),
    ToySubject("toy_house", "house", "purple", "yellow", "band", "ring"),
    ToySubject("toy_backpack", "backpack", "red", "blue", "tip", "cross"),
    ToySubject("toy_boot", "boot", "pink", "green", "band", "star"),
    ToySubject("toy_teapot", "teapot", "white", "red", "tip", "moon"),
    ToySubject("toy_mug2", "mug", "pink", "white", "tip", "bolt"),
    ToySubject("toy_duck2", "duck", "green", "orange", "half", "ring"),
    ToySubject("toy_car2", "car", "red", "yellow", "band", "heart"),
    ToySubject("toy_house2", "house", "white", "orange", "half", "cross"),
)

SUBJECTS: dict[str, ToySubject] = {subject.name: subject for subject in _CAST}


@cache
def held_out_emblems() -> frozenset[tuple[str, str]]:
    """(class, emblem) of each subject."""
    return frozenset((subject.class_word, subject.emblem) for subject in _CAST)


@cache
def held_out_layouts() -> frozenset[tuple[str, str]]:
    """(class, layout) of each subject."""
    return frozenset((subject.class_word, subject.pattern) for subject in _CAST)
