"""The words of the toy world, and a scene described in them."""

from dataclasses import dataclass

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
        ValueError: an attribute is not a word of this world, or both colours are the same.
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
    """Refuses a value that is not one of the words.

    Raises:
        ValueError: it is not.
    """
    if value not in words:
        raise ValueError(f"{attribute} must be one of {', '.join(words)}, got {value!r} in a Scene")
