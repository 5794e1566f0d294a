"""A heat map of scores: the interval of timesteps that one set learned in, against the one that it is used in."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from quantbooth.reporting.columns import Score
from quantbooth.reporting.panels import strategies
from quantbooth.reporting.study import Method, Study
from quantbooth.reporting.style import INK, PALETTE, drawing, svg
from quantbooth.timesteps.strategies import Strategy

__all__ = ["heat_map", "interval_map", "intervals_of", "maps_left_out"]

PANELS = ("oracle_subject", "oracle_prompt", "local_clip_i", "clip_t")
FEWEST = 4
"""Cells that make a map."""
CELL, LEFT, HEAD = 0.62, 0.95, 0.75
"""Inches."""
Interval = tuple[int, int]


def heat_map(study: Study) -> str | None:
    """Return the map of each score; None unless methods with one set differ in both intervals."""
    cells = _cells(study)
    learned, used = (sorted({cell[axis] for cell in cells}, key=_order) for axis in (0, 1))
    if len(cells) < FEWEST or len(learned) < 2 or len(used) < 2 or len(cells) == len(learned):
        return None
    scores = [score for key in PANELS for score in study.scores if score.key == key]
    width, height = LEFT + CELL * len(learned), HEAD + CELL * len(used)
    with drawing():
        figure = Figure(figsize=(width * len(scores), height), dpi=72)
        for place, (axes, score) in enumerate(
            zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True)
        ):
            axes.set_position(
                (
                    (LEFT + place * width) / (width * len(scores)),
                    0.55 / height,
                    CELL * len(learned) / (width * len(scores)),
                    1 - HEAD / height,
                )
            )
            _draw(axes, study, score, cells, (learned, used))
        return svg(figure, "plot-heat", "Learned in against used in", _in_words(study, scores, cells), [])


def interval_map(study: Study) -> str | None:
    """Return the map of intervals against scores, of sets that are used where they learned, or all everywhere.

    None for fewer than three such intervals, or where `heat_map` has them.
    """
    cells = _cells(study)
    alone = {learned: method for (learned, used), method in cells.items() if used == learned}
    everywhere = {learned: method for (learned, used), method in cells.items() if used == (0, _timesteps(study))}
    found = max(alone, everywhere, key=len)
    scores = [score for key in PANELS for score in study.scores if score.key == key]
    if len(found) < 3 or heat_map(study) is not None:
        return None
    learned = sorted(found, key=_order)
    width, height = 1.5 + CELL * len(learned), HEAD + CELL * len(scores)
    with drawing():
        figure = Figure(figsize=(width, height), dpi=72)
        axes = figure.add_axes((1.4 / width, 0.55 / height, CELL * len(learned) / width, 1 - HEAD / height))
        for row, score in enumerate(scores):
            values = [_mean(study, found[one], score) for one in learned]
            _cells_of_row(axes, values, len(scores) - 1 - row)
        _label(axes, learned, [score.title for score in reversed(scores)])
        axes.set_xlabel("learned in", color=INK.light)
        told = _in_words(study, scores, {pair: method for pair, method in cells.items() if method in found.values()})
        return svg(figure, "plot-intervals", "Interval against scores", told, [])


def _timesteps(study: Study) -> int:
    return max((one.training_zones.timesteps for one in strategies(study).values()), default=0)


def intervals_of(strategy: Strategy, strength: object) -> tuple[Interval, Interval] | None:
    """Return the interval that one set learned in, and the one that it is used in at full strength, as (start, stop).

    None for more sets, a set that is used in several intervals, or another strength.
    """
    trained, served = strategy.training_zones.zones, strategy.sampling_zones.zones
    if len(trained) != 1 or strategy.least is not None or strategy.wide is not None:
        return None
    learned, usual = (trained[0].start, trained[0].stop), (served[0].start, served[0].stop)
    if strength == 1:
        return learned, usual
    if not isinstance(strength, Mapping) or strength.get("elsewhere") != 0:
        return None
    used = [str(key) for key, share in strength.items() if share == 1]
    if len(used) != 1 or not all(share in (0, 1) for share in strength.values()):
        return None
    start, dash, stop = used[0].partition("-")
    if not (dash and start.isdecimal() and stop.isdecimal()):
        return None
    return learned, (max(int(start), usual[0]), min(int(stop), usual[1]))


def _cells(study: Study) -> dict[tuple[Interval, Interval], Method]:
    """Return the method of each pair of intervals; of several the first."""
    found: dict[tuple[Interval, Interval], Method] = {}
    for method, strategy in strategies(study).items():
        at = study.at(*study.last(method))
        pairs = {intervals_of(strategy, _strength(result.settings)) for result in at}
        if method in study.complete and len(pairs) == 1 and (pair := pairs.pop()) is not None:
            found.setdefault(pair, method)
    return found


def maps_left_out(study: Study) -> str:
    """Return a sentence on the methods that have no cell in a map, and why; nothing where all have one."""
    cells, found = _cells(study), dict[str, list[str]]()
    known = {method: strategy for method, strategy in strategies(study).items() if method in study.complete}
    for method, strategy in known.items():
        if method in cells.values():
            continue
        if strategy.sets > 1:
            why = "more sets than one"
        elif len(strategy.training_zones.zones) > 1:
            why = "one set of several intervals"
        elif strategy.least is not None:
            why = "a strength that falls with noise"
        else:
            pairs = {intervals_of(strategy, _strength(one.settings)) for one in study.at(*study.last(method))}
            twin = cells.get(pair) if len(pairs) == 1 and (pair := pairs.pop()) is not None else None
            why = (
                f"the intervals of {study.label(twin)}" if twin else "used in several intervals, or at another strength"
            )
        found.setdefault(why, []).append(study.label(method))
    return " ".join(f"Left out: {', '.join(names)} ({why})." for why, names in found.items())


def _strength(settings: Mapping[str, Any]) -> object:
    others = [settings.get(key) for key in ("unconditional_strength", "reward_guidance")]
    return settings.get("strength", 1.0) if others == [None, None] else None


def _draw(
    axes: Axes,
    study: Study,
    score: Score,
    cells: Mapping[tuple[Interval, Interval], Method],
    sides: tuple[list[Interval], list[Interval]],
) -> None:
    learned, used = sides
    values = {pair: _mean(study, method, score) for pair, method in cells.items()}
    low, high = min(values.values()), max(values.values())
    for (x, y), value in ((pair, values[pair]) for pair in cells):
        _cell(axes, (learned.index(x), used.index(y)), value, (low, high))
    axes.set_title(score.title, fontsize=9, color=INK.light)
    axes.set_xlabel("learned in", color=INK.light)
    axes.set_ylabel("used in", color=INK.light)
    _label(axes, learned, [_words(one) for one in used])


def _cells_of_row(axes: Axes, values: list[float], row: int) -> None:
    for place, value in enumerate(values):
        _cell(axes, (place, row), value, (min(values), max(values)))


def _cell(axes: Axes, place: tuple[int, int], value: float, limits: tuple[float, float]) -> None:
    low, high = limits
    share = (value - low) / (high - low) if high > low else 0.0
    axes.add_patch(Rectangle(place, 1, 1, color=PALETTE[0].colour.light, alpha=0.05 + 0.5 * share, linewidth=0))
    axes.text(place[0] + 0.5, place[1] + 0.5, f"{value:.3f}".lstrip("0"), ha="center", va="center", color=INK.light)


def _label(axes: Axes, columns: list[Interval], rows: list[str]) -> None:
    axes.set_xlim(0, len(columns))
    axes.set_ylim(0, len(rows))
    axes.set_xticks(np.arange(len(columns)) + 0.5, [_words(one) for one in columns], rotation=30, color=INK.light)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, color=INK.light)
    axes.tick_params(length=0, labelsize=7)
    for side in axes.spines.values():
        side.set_visible(False)


def _mean(study: Study, method: Method, score: Score) -> float:
    return float(np.mean(list(study.means(*study.last(method), score.key).values())))


def _words(interval: Interval) -> str:
    return f"{interval[0]}-{interval[1]}"


def _order(interval: Interval) -> tuple[int, int]:
    """Short intervals first, by their start; the widest last."""
    return interval[1] - interval[0], interval[0]


def _in_words(study: Study, scores: list[Score], cells: Mapping[tuple[Interval, Interval], Method]) -> str:
    parts = []
    for (learned, used), method in cells.items():
        means = ", ".join(f"{score.title} {score.unit.text(_mean(study, method, score))}" for score in scores)
        parts.append(f"learned in {_words(learned)}, used in {_words(used)}: {means}")
    return "; ".join(parts) + "."
