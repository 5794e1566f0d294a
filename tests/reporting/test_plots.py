"""Curves and their plot: where lines start, what is left out, labels that hide nothing, an SVG that fits a page."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest
from matplotlib.figure import Figure

from quantbooth.reporting.areas import curves
from quantbooth.reporting.plots import MOST_LABELLED, _place, tradeoff
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study
from quantbooth.reporting.style import BASE_STYLE, PALETTE, Style, assign_styles, inlined

Make = Callable[..., Result]
ORACLE = ("oracle_prompt", "oracle_subject")


def test_a_line_starts_at_the_base_of_its_own_weights(four: Study) -> None:
    found = {curve.label: curve for curve in curves(four, "clip_t", "local_clip_i")}
    assert found["s1"].steps == (0, 200, 400) and found["s1"].marks == ("", "200", "400")
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


def test_the_plot_is_well_formed_and_names_every_method_on_the_line(four: Study) -> None:
    text = tradeoff(four) or ""
    ElementTree.fromstring(text)
    words = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert {"untuned base", "float", "baseline", "s1", "s2"} <= set(words)
    assert "CLIP-T: follows the prompt →" in words
    assert "prefers-color-scheme: dark" in text
    assert text == tradeoff(four)


def test_of_many_methods_those_on_the_front_keep_their_names(make: Make) -> None:
    results = [
        make(f"m{k}", step=step, clip_t=0.2 + 0.004 * k, local_clip_i=0.8 - 0.004 * k - (k % 2) * 0.05)
        for k in range(MOST_LABELLED + 3)
        for step in (200, 400)
    ]
    text = tradeoff(Study(tuple(results))) or ""
    words = set(re.findall(r"<text[^>]*>([^<]*)</text>", text))
    assert {f"m{k}" for k in range(0, MOST_LABELLED + 3, 2)} <= words
    assert not {f"m{k}" for k in range(1, MOST_LABELLED + 3, 2)} & words and "200" not in words
    assert all(f"m{k}: " in text for k in range(MOST_LABELLED + 3))  # in words for screen readers


def test_inside_a_page_no_address_remains_and_ids_do_not_clash(four: Study) -> None:
    one, two = (inlined(tradeoff(four, *of) or "") for of in (("clip_t", "local_clip_i"), ORACLE))
    assert "http" not in one + two
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', one))
    assert used and used <= ids[0]


def test_without_an_oracle_or_a_complete_method_there_is_no_plot(make: Make) -> None:
    result = make("s1")
    assert tradeoff(Study((result,)), *ORACLE) is not None
    bare = dataclasses.replace(result, rows=result.rows.drop(columns="oracle_prompt"))
    assert tradeoff(Study((bare,)), *ORACLE) is None
    assert tradeoff(Study((make("s1", "mug"), make("s2", "duck")))) is None


def test_lines_have_arrowheads_and_their_steps(four: Study) -> None:
    text = tradeoff(four) or ""
    assert "200" in re.findall(r"<text[^>]*>([^<]*)</text>", text)
    one = Study(tuple(result for result in four.results if result.method in ("base", "s1")), four.styles)
    without = Study(tuple(result for result in one.results if result.step != 200), four.styles)
    assert (tradeoff(one) or "").count("<path") - (tradeoff(without) or "").count("<path") >= 2


def test_labels_hide_no_other_label(four: Study) -> None:
    figure = Figure(figsize=(6, 4), dpi=72)
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    texts = [axes.text(x, y, "a label") for x, y in ((0.5, 0.5), (0.51, 0.51), (0.52, 0.49))]
    _place(axes, texts, curves(four, "clip_t", "local_clip_i"))
    boxes = [text.get_window_extent() for text in texts]
    assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[:k])
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)


def _luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("style", [BASE_STYLE, *PALETTE], ids=lambda style: style.colour.light)
def test_every_colour_contrasts_with_light_and_with_dark(style: Style) -> None:
    assert _contrast(style.colour.light, "#fdfdfc") >= 4
    assert _contrast(style.colour.dark, "#16181b") >= 4


def test_every_method_has_a_look_of_its_own_that_contrasts(styles: dict[str, Style]) -> None:
    for style in styles.values():
        assert _contrast(style.colour.light, "#fdfdfc") >= 4 and _contrast(style.colour.dark, "#16181b") >= 4
    for part in ("colour", "order", "label"):
        assert len({getattr(style, part) for style in styles.values()}) == len(styles)


def test_methods_without_a_file_take_free_colours_in_order(styles: dict[str, Style]) -> None:
    names = ["s1", *(f"mine{k}" for k in range(2 * len(PALETTE)))]
    worn = assign_styles([(name, False) for name in names], styles)
    assert worn[0] == styles["s1"]
    assert len({(style.colour, style.marker) for style in worn}) == len(worn)
    assert styles["s1"].colour not in [style.colour for style in worn[1:]]


def test_variants_have_the_colour_of_their_method_and_markers_of_their_own(styles: dict[str, Style]) -> None:
    methods = ("float-0.1", "baseline-slow", "float-0.2", "s2-apart-slow")
    slow, base, fast, apart = assign_styles([(name, False) for name in methods], styles)
    assert slow.colour == fast.colour == styles["float"].colour and slow.marker != fast.marker
    assert base.colour == styles["baseline"].colour and apart.colour == styles["s2-apart"].colour


def test_rows_of_one_method_told_apart_by_options_differ_in_colour(styles: dict[str, Style]) -> None:
    worn = assign_styles([("s1", True)] * 3, styles)
    assert worn[0] == styles["s1"] and len({style.colour for style in worn}) == 3
