"""Curves and their plot: where lines start, what is left out, labels that hide nothing, an SVG that fits a page."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest

from quantbooth.reporting.areas import curves
from quantbooth.reporting.plots import Box, oracle_tradeoff, place, tradeoff
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study
from quantbooth.reporting.style import LOOKS, OTHERS, Look, inlined, look
from quantbooth.runtime.errors import UserError

Make = Callable[..., Result]


def test_a_line_starts_at_the_base_of_its_own_weights(four: list[Result]) -> None:
    found = {curve.label: curve for curve in curves(Study(tuple(four)), "clip_t", "local_clip_i")}
    assert found["s1"].steps == (0, 200, 400)
    assert found["s1"].x == pytest.approx((0.310, 0.300, 0.291))
    assert found["s1"].y == pytest.approx((0.600, 0.650, 0.731))
    assert found["float"].steps == (400,)  # there is no float base among the results


def test_a_snapshot_that_lacks_a_subject_is_left_out(make: Make) -> None:
    results = [make("s1", s, step) for s in ("mug", "duck") for step in (200, 400)] + [make("s1", "mug", 800)]
    (curve,) = curves(Study(tuple(results)), "clip_t", "local_clip_i")
    assert curve.steps == (200, 400) and curve.spans is None


def test_a_snapshot_that_lacks_a_seed_is_left_out(make: Make) -> None:
    results = [make("s1", step=step, seed=seed) for step in (200, 400) for seed in (0, 1)] + [make("s1", step=800)]
    (curve,) = curves(Study(tuple(results)), "clip_t", "local_clip_i")
    assert curve.steps == (200, 400)


def test_an_interval_is_drawn_over_subjects(make: Make) -> None:
    results = [make("s1", s, clip_t=t, local_clip_i=0.7) for s, t in (("mug", 0.2), ("duck", 0.3), ("car", 0.4))]
    (curve,) = curves(Study(tuple(results)), "clip_t", "local_clip_i")
    assert curve.spans is not None
    across, up = curve.spans
    assert across.low < 0.3 < across.high and up.low == up.high == pytest.approx(0.7)


def test_the_plot_is_well_formed_and_names_every_method_on_the_line(four: list[Result]) -> None:
    text = tradeoff(four)
    ElementTree.fromstring(text)
    words = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert {"untuned base", "float", "baseline", "s1", "s2"} <= set(words)
    assert "CLIP-T: follows the prompt →" in words
    assert "prefers-color-scheme: dark" in text
    assert text == tradeoff(four)


def test_inside_a_page_no_address_remains_and_ids_do_not_clash(four: list[Result]) -> None:
    one, two = inlined(tradeoff(four)), inlined(oracle_tradeoff(four) or "")
    assert "http" not in one + two
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', one))
    assert used and used <= ids[0]


def test_without_an_oracle_or_a_complete_method_there_is_no_plot(make: Make) -> None:
    result = make("s1")
    assert oracle_tradeoff([result]) is not None
    bare = dataclasses.replace(result, rows=result.rows.drop(columns="oracle_prompt"))
    assert oracle_tradeoff([bare]) is None
    with pytest.raises(UserError, match="got none; finish the sweep"):
        tradeoff([make("s1", "mug"), make("s2", "duck")])


def test_labels_hide_neither_each_other_nor_points_nor_lines() -> None:
    anchors = [(100.0, 100.0), (104.0, 108.0), (96.0, 112.0)]
    lines = [[(300.0, 20.0), anchor] for anchor in anchors]
    frame = Box(0, 0, 400, 300)
    boxes = place(anchors, [(40.0, 11.0)] * 3, lines, [], frame)
    for k, box in enumerate(boxes):
        assert all(box.overlap(other) == 0 for other in boxes[:k])
        assert not any(box.left < x < box.right and box.bottom < y < box.top for x, y in anchors)
        assert box.beyond(frame) == 0


def test_a_label_stays_inside_the_frame() -> None:
    (box,) = place([(2.0, 50.0)], [(60.0, 11.0)], [[(200.0, 50.0), (2.0, 50.0)]], [], Box(0, 0, 200, 100))
    assert box.beyond(Box(0, 0, 200, 100)) == 0


def _luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_widest_label_chooses_first_wherever_it_stands() -> None:
    frame, anchors, sizes = Box(0, 0, 400, 300), [(200.0, 153.0), (200.0, 150.0)], [(30.0, 11.0), (120.0, 11.0)]
    boxes = place(anchors, sizes, [], [], frame)
    assert place(anchors[::-1], sizes[::-1], [], [], frame) == boxes[::-1]


def test_a_hair_line_leads_to_the_nearest_point_of_a_label() -> None:
    assert Box(0, 0, 40, 30).nearest((50, 15)) == (40, 15) and Box(0, 0, 40, 30).nearest((7, 8)) == (7, 8)


@pytest.mark.parametrize("style", [*LOOKS.values(), *OTHERS], ids=lambda style: style.tone.light)
def test_every_colour_stands_out_on_light_and_on_dark(style: Look) -> None:
    assert _contrast(style.tone.light, "#fdfdfc") >= 4
    assert _contrast(style.tone.dark, "#16181b") >= 4


def test_methods_beyond_the_known_share_spare_looks_in_order() -> None:
    methods = ("s1", "a", "b", "c")
    assert [look(name, methods) for name in methods] == [LOOKS["s1"], *OTHERS, OTHERS[0]]


def test_variants_have_the_colour_of_their_method_and_shapes_of_their_own() -> None:
    methods = ("float", "float-0.1", "baseline-slow", "float-0.2", "s2-apart-slow")
    slow, fast = look("float-0.1", methods), look("float-0.2", methods)
    assert slow.tone == fast.tone == LOOKS["float"].tone and slow.marker != fast.marker
    assert look("baseline-slow", methods).tone == LOOKS["baseline"].tone
    assert look("s2-apart-slow", methods).tone == LOOKS["s2-apart"].tone
