"""The ten contexts: backgrounds that differ in colour and texture, with small variations by the scene's seed."""

from collections.abc import Callable
from random import Random

from PIL import Image, ImageDraw

from quantbooth_toyworld.paint import RGB

Draw = ImageDraw.ImageDraw
SIDE = 128


def backdrop(context: str, seed: int) -> Image.Image:
    """Draw a context, SIDE x SIDE RGB; the same seed gives the same picture.

    Raises:
        KeyError: when there is no such context.
    """
    image = Image.new("RGB", (SIDE, SIDE))
    _PAINTERS[context](ImageDraw.Draw(image), Random(seed))
    return image


def _beach(draw: Draw, dice: Random) -> None:
    sea, sand = dice.randint(24, 34), dice.randint(58, 68)
    _fill(draw, 0, sea, (150, 214, 250))
    _fill(draw, sea, sand, (22, 140, 176))
    for y in range(sea + 8, sand - 6, 10):
        _dashes(draw, dice, y, 3, (86, 190, 214))
    _fill(draw, sand, SIDE, (242, 216, 150))
    _waves(draw, dice, sand, 4, (250, 252, 252), 6)
    _specks(draw, dice, 46, sand + 8, SIDE, 3, ((214, 180, 112), (254, 238, 190)))


def _snow(draw: Draw, dice: Random) -> None:
    ground = dice.randint(48, 60)
    _fill(draw, 0, ground, (176, 198, 220))
    for x in (dice.randint(6, 16), dice.randint(108, 120)):
        _fir(draw, x, ground + 8)
    _fill(draw, ground, SIDE, (238, 244, 252))
    _waves(draw, dice, ground, 7, (238, 244, 252), 12)
    for y in (ground + 24, ground + 46):
        _waves(draw, dice, y, 5, (206, 220, 240), 4)
    _specks(draw, dice, 34, 0, SIDE, 5, ((255, 255, 255),))


def _grass(draw: Draw, dice: Random) -> None:
    _fill(draw, 0, SIDE, (86, 172, 62))
    for _ in range(90):
        x, y, lean = dice.randint(0, SIDE), dice.randint(-4, SIDE), dice.randint(-4, 4)
        draw.polygon(((x - 2, y + 12), (x + lean, y), (x + 3, y + 12)), dice.choice(((52, 130, 40), (136, 208, 84))))
    _specks(draw, dice, 7, 0, SIDE, 6, ((255, 240, 120), (255, 255, 255)))


def _night(draw: Draw, dice: Random) -> None:
    hill = dice.randint(94, 106)
    _fill(draw, 0, SIDE, (16, 20, 62))
    _specks(draw, dice, 30, 0, hill, 4, ((255, 255, 220), (170, 180, 235)))
    x, y = dice.choice((14, 108)), dice.randint(10, 18)
    draw.ellipse((x - 11, y - 11, x + 11, y + 11), (255, 244, 190))
    draw.ellipse((x - 4, y - 14, x + 16, y + 8), (16, 20, 62))
    _fill(draw, hill, SIDE, (10, 34, 40))
    _waves(draw, dice, hill, 7, (10, 34, 40), 12)


def _wood(draw: Draw, dice: Random) -> None:
    tones: tuple[RGB, ...] = ((176, 118, 66), (190, 132, 78), (162, 104, 56))
    shift = dice.randint(-20, 0)
    for row, y in enumerate(range(shift, SIDE, 22)):
        _fill(draw, y, y + 22, tones[(row + dice.randint(0, 1)) % 3])
        _dashes(draw, dice, y + dice.randint(6, 16), 2, (142, 88, 46))
        draw.rectangle((0, y, SIDE, y + 2), (96, 56, 28))
        x = dice.randint(0, SIDE)
        draw.rectangle((x, y, x + 2, y + 22), (96, 56, 28))


def _fabric(draw: Draw, dice: Random) -> None:
    _fill(draw, 0, SIDE, (70, 120, 204))
    shift = dice.randint(0, 15)
    for x in range(shift - SIDE, SIDE, 16):
        draw.line((x, 0, x + SIDE, SIDE), (110, 160, 232), 4)
    for x in range(shift, 2 * SIDE, 16):
        draw.line((x, 0, x - SIDE, SIDE), (44, 88, 168), 4)


def _street(draw: Draw, dice: Random) -> None:
    kerb = dice.randint(74, 82)
    _fill(draw, 0, SIDE, (198, 206, 214))
    x = -dice.randint(0, 16)
    while x < SIDE:
        width, top = dice.randint(20, 30), dice.randint(4, 30)
        draw.rectangle((x, top, x + width - 3, kerb), dice.choice(((112, 116, 128), (138, 126, 122), (94, 102, 122))))
        for wx in range(x + 4, x + width - 7, 9):
            for wy in range(top + 6, kerb - 6, 12):
                draw.rectangle((wx, wy, wx + 4, wy + 6), dice.choice(((255, 226, 120), (60, 66, 82))))
        x += width
    _fill(draw, kerb, kerb + 7, (170, 170, 168))
    _fill(draw, kerb + 7, SIDE, (70, 72, 78))
    for x in range(-dice.randint(0, 30), SIDE, 36):
        draw.rectangle((x, 108, x + 20, 114), (246, 246, 240))


def _desert(draw: Draw, dice: Random) -> None:
    dune = dice.randint(50, 60)
    _fill(draw, 0, SIDE, (252, 206, 150))
    sun = dice.randint(14, 114)
    draw.ellipse((sun - 11, 6, sun + 11, 28), (255, 246, 196))
    draw.polygon(
        ((0, dune + 12), (36, dune - 8), (80, dune + 8), (112, dune - 4), (SIDE, dune + 8), (SIDE, SIDE), (0, SIDE)),
        (226, 138, 66),
    )
    for k, y in enumerate((dune + 22, dune + 42, dune + 62)):
        draw.polygon(
            ((0, y + 6 * (k % 2)), (64, y + 8 - 14 * (k % 2)), (SIDE, y), (SIDE, SIDE), (0, SIDE)),
            ((206, 112, 48), (222, 134, 62))[k % 2],
        )
    _cactus(draw, dice.choice((9, 118)), dune + 30)


def _rug(draw: Draw, dice: Random) -> None:
    _fill(draw, 0, SIDE, (150, 22, 40))
    draw.rectangle((5, 5, SIDE - 6, SIDE - 6), None, (232, 180, 70), 5)
    draw.rectangle((13, 13, SIDE - 14, SIDE - 14), None, (74, 8, 24), 4)
    shift = dice.randint(0, 11)
    for y in range(26 + shift - 12, SIDE - 14, 22):
        for x in range(28 - shift, SIDE - 14, 22):
            draw.polygon(((x, y - 8), (x + 8, y), (x, y + 8), (x - 8, y)), (206, 74, 70))
    for x in range(shift % 8, SIDE, 8):
        draw.rectangle((x, 0, x + 3, 3), (240, 214, 160))
        draw.rectangle((x, SIDE - 4, x + 3, SIDE), (240, 214, 160))


def _bricks(draw: Draw, dice: Random) -> None:
    _fill(draw, 0, SIDE, (214, 202, 190))
    shift, drop = dice.randint(0, 31), dice.randint(-14, 0)
    for row, y in enumerate(range(drop, SIDE, 16)):
        for x in range(shift - 48 + 16 * (row % 2), SIDE, 32):
            draw.rectangle((x, y, x + 27, y + 11), dice.choice(((172, 84, 56), (188, 98, 66), (156, 72, 50))))


def _fill(draw: Draw, top: int, bottom: int, colour: RGB) -> None:
    draw.rectangle((0, top, SIDE, bottom - 1), colour)


def _specks(draw: Draw, dice: Random, count: int, top: int, bottom: int, side: int, colours: tuple[RGB, ...]) -> None:
    for _ in range(count):
        x, y = dice.randrange(SIDE), dice.randrange(top, bottom)
        draw.rectangle((x, y, x + side, y + side), dice.choice(colours))


def _dashes(draw: Draw, dice: Random, y: int, count: int, colour: RGB) -> None:
    for _ in range(count):
        x = dice.randrange(SIDE)
        draw.rectangle((x, y, x + 22, y + 3), colour)


def _waves(draw: Draw, dice: Random, y: int, height: int, colour: RGB, reach: int) -> None:
    for x in range(-dice.randint(0, 31), SIDE, 32):
        draw.ellipse((x, y - height, x + 40, y + reach), colour)


def _fir(draw: Draw, x: int, foot: int) -> None:
    for k in range(3):
        y = foot - 44 + 13 * k
        draw.polygon(((x, y), (x + 9 + 3 * k, y + 18), (x - 9 - 3 * k, y + 18)), (44, 92, 84))


def _cactus(draw: Draw, x: int, foot: int) -> None:
    green = (52, 120, 62)
    draw.rounded_rectangle((x - 4, foot - 46, x + 4, foot), 4, green)
    draw.rounded_rectangle((x - 12, foot - 34, x - 7, foot - 18), 2, green)
    draw.rounded_rectangle((x + 7, foot - 38, x + 12, foot - 22), 2, green)
    draw.rectangle((x - 12, foot - 22, x + 12, foot - 18), green)


_PAINTERS: dict[str, Callable[[Draw, Random], None]] = {
    "on the beach": _beach,
    "in the snow": _snow,
    "on green grass": _grass,
    "at night": _night,
    "on a wooden floor": _wood,
    "on blue fabric": _fabric,
    "on a city street": _street,
    "in the desert": _desert,
    "on a red rug": _rug,
    "in front of a brick wall": _bricks,
}
