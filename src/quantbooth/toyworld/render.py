"""Draws a scene: painted four times too large, then averaged down, so that edges are smooth and the mask exact."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from quantbooth.toyworld.accessories import accessory
from quantbooth.toyworld.contexts import SIDE, backdrop
from quantbooth.toyworld.emblems import emblem
from quantbooth.toyworld.geometry import Placement, Polygon, scaled
from quantbooth.toyworld.palette import PAINT, RGB, contrasting, mixed, outline
from quantbooth.toyworld.patterns import second_colour
from quantbooth.toyworld.shapes import Shape, shape
from quantbooth.toyworld.world import Scene

PIXELS = 32
RIM = ((3, 0), (-3, 0), (0, 3), (0, -3), (2, 2), (2, -2), (-2, 2), (-2, -2))


@dataclass(frozen=True)
class Rendered:
    """A picture [32, 32, 3] uint8 and the mask [32, 32] bool of its object.

    The mask covers the pixels of which the object shows at least half: its rim, details and emblem belong to it, an
    accessory and what that hides do not.
    """

    image: np.ndarray
    mask: np.ndarray
    scene: Scene


def render(scene: Scene) -> Rendered:
    """The picture of a scene; the same scene gives the same bytes."""
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
    """Paints rim, body, details and emblem; returns the silhouette, rim included."""
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
    """Paints an accessory with its rim; returns what it covers."""
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
