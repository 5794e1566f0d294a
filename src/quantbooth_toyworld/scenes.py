"""Random scenes without the personal subjects' combinations, and the renderer with exact masks.

A scene is painted at four times its resolution and averaged down, for smooth edges and an exact mask.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from quantbooth_toyworld.contexts import SIDE, backdrop
from quantbooth_toyworld.details import accessory, emblem, second_colour
from quantbooth_toyworld.paint import PAINT, RGB, Placement, Polygon, contrasting, mixed, outline, scaled
from quantbooth_toyworld.shapes import Shape, shape
from quantbooth_toyworld.world import (
    ACCESSORIES,
    CLASSES,
    COLOURS,
    CONTEXTS,
    EMBLEMS,
    LAYOUTS,
    PATTERNS,
    Scene,
    held_out_emblems,
    held_out_layouts,
)

__all__ = [
    "ACCESSORIES",
    "CLASSES",
    "COLOURS",
    "CONTEXTS",
    "EMBLEMS",
    "LAYOUTS",
    "PATTERNS",
    "PIXELS",
    "Rendered",
    "Scene",
    "random_place",
    "random_scene",
    "render",
]

PIXELS = 32
RIM = ((3, 0), (-3, 0), (0, 3), (0, -3), (2, 2), (2, -2), (-2, 2), (-2, -2))


@dataclass(frozen=True)
class Rendered:
    """A picture [32, 32, 3] uint8 and the mask [32, 32] bool of its object.

    The mask has the pixels that the object covers by at least half: its outline, details and emblem are part of it, an
    accessory and the area that it hides are not.
    """

    image: np.ndarray
    mask: np.ndarray
    scene: Scene


def render(scene: Scene) -> Rendered:
    """Render a scene; the same scene gives the same bytes."""
    place = Placement(scene.x, scene.y, scene.size, scene.tilt, SIDE)
    form = shape(scene.class_word)
    canvas = backdrop(scene.context, scene.seed)
    covered = _paint_object(canvas, scene, form, place)
    if scene.accessory is not None:
        worn = _paint_accessory(canvas, scene.accessory, form, place)
        covered.paste(0, (0, 0), worn)
    small = canvas.resize((PIXELS, PIXELS), Image.Resampling.BOX)
    mask = np.asarray(covered.resize((PIXELS, PIXELS), Image.Resampling.BOX)) >= 128
    return Rendered(np.array(small), mask, scene)


def _paint_object(canvas: Image.Image, scene: Scene, form: Shape, place: Placement) -> Image.Image:
    """Paint outline, body, details and emblem; return the silhouette, outline included."""
    colour = PAINT[scene.colour]
    body = _stencil(form.body, place)
    loose = _stencil((polygon for polygon, _ in form.behind + form.details), place)
    loose.paste(255, (0, 0), body)
    covered = _widened(loose)
    canvas.paste(outline(colour), (0, 0), covered)
    draw = ImageDraw.Draw(canvas)
    for polygon, tone in form.behind:
        draw.polygon(place(polygon), tone)
    canvas.paste(_cloth(scene, place), (0, 0), body)
    for polygon, tone in form.details:
        draw.polygon(place(polygon), tone)
    if scene.emblem is not None:
        x, y, diameter = form.emblem
        for polygon in emblem(scene.emblem):
            draw.polygon(place(scaled(polygon, x, y, diameter)), _emblem_tone(scene))
    return covered


def _paint_accessory(canvas: Image.Image, name: str, form: Shape, place: Placement) -> Image.Image:
    """Paint an accessory with its outline; return the area that it covers."""
    pieces = accessory(name, form)
    covered = _widened(_stencil((polygon for polygon, _ in pieces), place))
    canvas.paste(mixed(pieces[0][1], (0, 0, 0), 0.65), (0, 0), covered)
    draw = ImageDraw.Draw(canvas)
    for polygon, tone in pieces:
        draw.polygon(place(polygon), tone)
    return covered


def _cloth(scene: Scene, place: Placement) -> Image.Image:
    cloth = Image.new("RGB", (SIDE, SIDE), PAINT[scene.colour])
    draw = ImageDraw.Draw(cloth)
    for polygon in second_colour(scene.pattern):
        draw.polygon(place(polygon), PAINT[scene.second])
    return cloth


def _emblem_tone(scene: Scene) -> RGB:
    colour, second = PAINT[scene.colour], PAINT[scene.second]
    grounds = {"band": (second,), "half": (colour, second)}.get(scene.pattern, (colour,))
    return contrasting(*grounds)


def _stencil(polygons: Iterable[Polygon], place: Placement) -> Image.Image:
    stencil = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(stencil)
    for polygon in polygons:
        draw.polygon(place(polygon), 255)
    return stencil


def _widened(stencil: Image.Image) -> Image.Image:
    wide = stencil.copy()
    for shift in RIM:
        wide.paste(255, shift, stencil)
    return wide


PLAIN_SHARE = 0.40
PATTERNED_SHARE = 0.45
EMBLEM_SHARE = 0.20
ACCESSORY_SHARE = 0.40


def random_scene(rng: np.random.Generator, held_out: bool = True) -> Scene:
    """Draw a scene of the pre-training distribution.

    The body is plain in 40 % of scenes, striped, dotted or checked in 45 % in total, in a two-colour layout in 15 %.
    20 % have an emblem, on plain bodies and layouts only; 40 % have an accessory.

    With `held_out`, no (class, emblem) and no (class, layout) pair of a personal subject occurs: the emblem or layout
    is drawn among the others, so a class shows four or five of the six emblems and one or two of the three layouts.
    Every emblem and every layout occurs on *other* classes, and every class in the subjects' colours: a subject is a
    new combination of known parts, not a new part.
    """
    class_word = _pick(rng, CLASSES)
    pattern = _pattern(rng, class_word, held_out)
    colour, second = (COLOURS[i] for i in rng.permutation(len(COLOURS))[:2])
    x, y, size, tilt = random_place(rng)
    return Scene(
        class_word=class_word,
        colour=colour,
        second=second,
        pattern=pattern,
        context=_pick(rng, CONTEXTS),
        accessory=_pick(rng, ACCESSORIES) if rng.random() < ACCESSORY_SHARE else None,
        emblem=_emblem(rng, class_word, pattern, held_out),
        x=x,
        y=y,
        size=size,
        tilt=tilt,
        seed=int(rng.integers(2**31)),
    )


def random_place(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Draw centre x and y in [0.46, 0.56), size in [0.70, 0.80) of the frame, tilt in [-4, 4) degrees."""
    x, y, size, tilt = rng.random(4).tolist()
    return 0.46 + 0.1 * x, 0.46 + 0.1 * y, 0.70 + 0.1 * size, 8 * tilt - 4


def _pattern(rng: np.random.Generator, class_word: str, held_out: bool) -> str:
    draw = rng.random()
    if draw < PLAIN_SHARE:
        return "plain"
    if draw < PLAIN_SHARE + PATTERNED_SHARE:
        return _pick(rng, PATTERNS[1:])
    banned = held_out_layouts() if held_out else frozenset()
    return _pick(rng, tuple(layout for layout in LAYOUTS if (class_word, layout) not in banned))


def _emblem(rng: np.random.Generator, class_word: str, pattern: str, held_out: bool) -> str | None:
    if pattern in PATTERNS[1:] or rng.random() >= EMBLEM_SHARE / (1 - PATTERNED_SHARE):
        return None
    banned = held_out_emblems() if held_out else frozenset()
    return _pick(rng, tuple(emblem for emblem in EMBLEMS if (class_word, emblem) not in banned))


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]
