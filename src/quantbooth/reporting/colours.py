"""Colours and marks of methods: safe for colour-blind eyes, on light and on dark ground, the same in plot and page."""

from dataclasses import dataclass

__all__ = ["FAINT", "GROUND", "INK", "MUTED", "Look", "Tone", "look"]


@dataclass(frozen=True)
class Tone:
    """One colour on light and on dark ground."""

    light: str
    dark: str


@dataclass(frozen=True)
class Look:
    """A method's colour, its matplotlib marker, and the same shape as a character."""

    tone: Tone
    marker: str
    glyph: str


INK = Tone("#24292f", "#e4e6e9")
MUTED = Tone("#626a73", "#9ba3ac")
FAINT = Tone("#dfe2e6", "#33383f")
GROUND = Tone("#fdfdfc", "#16181b")

LOOKS = {
    "base": Look(Tone("#3f464e", "#c9ced4"), "o", "○"),
    "float": Look(Tone("#747c86", "#a3abb4"), "D", "◆"),
    "lora": Look(Tone("#7a6a50", "#c4b294"), "d", "◊"),
    "qlora": Look(Tone("#a13d3d", "#f09a9a"), "p", "⬟"),
    "baseline": Look(Tone("#0b69b0", "#5cb3f0"), "o", "●"),
    "s1": Look(Tone("#c8500a", "#ff9152"), "s", "■"),
    "s2": Look(Tone("#00805c", "#2fc596"), "^", "▲"),
    "s2-apart": Look(Tone("#a8467f", "#e993c5"), "v", "▼"),
    "baseline-scales_in_out": Look(Tone("#8a6a00", "#e3b93c"), "P", "✚"),
    "baseline-scales_shifts": Look(Tone("#5b55c0", "#a8a3f5"), "X", "✖"),
}
OTHERS = (
    Look(Tone("#9a4a2f", "#e8a083"), "H", "⬣"),
    Look(Tone("#2f7280", "#74bfcd"), "h", "⬢"),
)
"""Hues after Okabe and Ito (2008), darkened and lightened until each has a contrast of at least 4 to its ground."""


MARKERS = (("s", "■"), ("^", "▲"), ("P", "✚"), ("X", "✖"), ("v", "▼"), ("D", "◆"), ("o", "●"))
"""Shapes that tell variants of one method apart."""


def look(method: str, methods: tuple[str, ...]) -> Look:
    """A known method's own look; a variant of it (`float-slow`) has its colour and a shape by its rank among them.

    Others take the spare looks in the order of `methods`, and share them when out.
    """
    if method in LOOKS:
        return LOOKS[method]
    family = _family(method)
    alike = [name for name in methods if name not in LOOKS and _family(name) == family]
    rank = alike.index(method)
    if family is None:
        return OTHERS[rank % len(OTHERS)]
    return Look(LOOKS[family].tone, *MARKERS[rank % len(MARKERS)])


def _family(method: str) -> str | None:
    """The known method this is a variant of."""
    return max((name for name in LOOKS if method.startswith(f"{name}-")), key=len, default=None)
