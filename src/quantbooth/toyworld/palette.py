"""The colours of the toy world as RGB, and which tone shows on which."""

RGB = tuple[int, int, int]

INK: RGB = (24, 24, 30)
PAPER: RGB = (250, 250, 250)
GLASS: RGB = (190, 228, 245)
STEEL: RGB = (150, 154, 164)
BEAK: RGB = (248, 150, 30)
BARK: RGB = (88, 54, 34)

PAINT: dict[str, RGB] = {
    "red": (218, 32, 38),
    "orange": (250, 130, 14),
    "yellow": (252, 218, 34),
    "green": (34, 158, 62),
    "blue": (34, 86, 222),
    "purple": (132, 44, 172),
    "pink": (255, 136, 190),
    "white": (248, 248, 248),
    "black": (30, 30, 36),
}


def mixed(first: RGB, second: RGB, share: float) -> RGB:
    """Blend: first + share (second - first), per channel, rounded."""
    r, g, b = (round(a + share * (c - a)) for a, c in zip(first, second, strict=True))
    return (r, g, b)


def luma(colour: RGB) -> float:
    """Perceived brightness in [0, 255] (Rec. 601)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def outline(colour: RGB) -> RGB:
    """The rim that sets a body off from any context: light around black, else a dark shade of the body's colour."""
    return (206, 206, 212) if luma(colour) < 50 else mixed(colour, INK, 0.72)


def contrasting(*grounds: RGB) -> RGB:
    """White or black, whichever differs more from the nearest of the grounds."""
    return max((PAPER, INK), key=lambda tone: min(abs(luma(tone) - luma(ground)) for ground in grounds))
