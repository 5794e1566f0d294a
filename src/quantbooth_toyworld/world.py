"""The vocabulary of the toy world, scenes, and the personal subjects with their held-out combinations."""

from dataclasses import dataclass
from functools import cache

CLASSES = ("mug", "duck", "fish", "car", "house", "backpack", "boot", "teapot")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black")
PATTERNS = ("plain", "striped", "dotted", "checked")
LAYOUTS = ("half", "band", "tip")
CONTEXTS = (
    "on the beach",
    "in the snow",
    "on green grass",
    "at night",
    "on a wooden floor",
    "on blue fabric",
    "on a city street",
    "in the desert",
    "on a red rug",
    "in front of a brick wall",
)
ACCESSORIES = ("a red hat", "a rainbow scarf", "a green bow")
EMBLEMS = ("star", "heart", "moon", "cross", "bolt", "ring")
IDENTIFIERS = ("sks", "zwx", "ohwx", "vrn")


@dataclass(frozen=True)
class Scene:
    """Everything that decides a picture.

    `pattern` is one of PATTERNS (captions may name it) or LAYOUTS (no caption does). `x`, `y` are the object's centre
    and `size` the side of its box, in fractions of the frame; `tilt` is in degrees, clockwise. `seed` varies the
    context only.

    Raises:
        ValueError: when an attribute is not a word of this world, or both colours are equal.
    """

    class_word: str
    colour: str
    second: str
    pattern: str
    context: str
    accessory: str | None
    emblem: str | None
    x: float
    y: float
    size: float
    tilt: float
    seed: int

    def __post_init__(self) -> None:
        require("class_word", self.class_word, CLASSES)
        require("colour", self.colour, COLOURS)
        require("second", self.second, COLOURS)
        require("pattern", self.pattern, PATTERNS + LAYOUTS)
        require("context", self.context, CONTEXTS)
        if self.accessory is not None:
            require("accessory", self.accessory, ACCESSORIES)
        if self.emblem is not None:
            require("emblem", self.emblem, EMBLEMS)
        if self.colour == self.second:
            raise ValueError(f"second must differ from colour, got {self.second!r} for both in a Scene")


def require(attribute: str, value: str, words: tuple[str, ...]) -> None:
    """Check that a value is one of the words.

    Raises:
        ValueError: when it is not.
    """
    if value not in words:
        raise ValueError(f"{attribute} must be one of {', '.join(words)}, got {value!r} in a Scene")


@dataclass(frozen=True)
class ToySubject:
    """A personal subject: colours that captions can name, a layout and an emblem that they cannot."""

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
    """Return (class, emblem) of each subject."""
    return frozenset((subject.class_word, subject.emblem) for subject in _CAST)


@cache
def held_out_layouts() -> frozenset[tuple[str, str]]:
    """Return (class, layout) of each subject."""
    return frozenset((subject.class_word, subject.pattern) for subject in _CAST)
