"""Plots with a panel per score: over intervals of timesteps, and over trained parameters."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quantbooth.reporting.columns import Score, signed
from quantbooth.reporting.inference import Difference, difference, interval
from quantbooth.reporting.study import Method, Study
from quantbooth.reporting.style import GROUND, INK, MUTED, drawing, frame, in_legend, log_axis, svg
from quantbooth.timesteps.strategies import Strategy
from quantbooth.timesteps.zones import Zone, Zones

__all__ = ["differ", "frontier", "learned_in", "strategies", "zone_plot"]

INCHES = (9.4, 3.3)
PANELS = ("oracle_subject", "local_clip_i", "clip_t")
ENOUGH = 3
UNNAMED = re.compile(r"selected|part\d+")
"""Default names of zones."""
ALL = "all"


def strategies(study: Study) -> dict[Method, Strategy]:
    """Return the strategy of every tuned method, where its runs at the last step agree on one."""
    found = {}
    for method in study.tuned:
        own = {result.strategy for result in study.at(*study.last(method))}
        if len(own) == 1 and (strategy := own.pop()) is not None:
            found[method] = strategy
    return found


def differ(found: dict[Method, Strategy]) -> bool:
    """Return whether two methods differ in their training or sampling zones."""
    return len({(one.training_zones, one.sampling_zones) for one in found.values()}) > 1


def learned_in(strategy: Strategy) -> str:
    """Return the training intervals in words, and what is used elsewhere."""
    learned = _listed(strategy.training_zones)
    text = f"learned in {learned}{'' if learned == ALL else ' of'} {strategy.training_zones.timesteps:,} timesteps"
    if strategy.least is not None:
        text += f", at a strength that falls with noise from 1 to {strategy.least:g}"
    if strategy.wide is not None:
        text += f", added to a set of [{strategy.wide.start}, {strategy.wide.stop})"
    if strategy.shared_steps:
        text += f", by one set in the first {strategy.shared_steps:,} steps"
    if strategy.separate_runs:
        text += ", each interval in a separate run"
    if strategy.sampling_zones != strategy.training_zones:
        return f"{text}; used in {_listed(strategy.sampling_zones)}"
    covered = sum(zone.stop - zone.start for zone in strategy.sampling_zones.zones)
    return text if covered == strategy.sampling_zones.timesteps else f"{text}; elsewhere the base"


def _listed(zones: Zones) -> str:
    if [(zone.start, zone.stop) for zone in zones.zones] == [(0, zones.timesteps)]:
        return ALL
    return ", ".join(f"[{z.start}, {z.stop})" if UNNAMED.fullmatch(z.name) else str(z) for z in zones.zones)


def _panels(
    study: Study,
    methods: Sequence[Method],
    draw: Callable[[Axes, Score], None],
    name: tuple[str, str],
    description: str,
) -> str:
    """Return a panel for each score that the study has, with a common legend."""
    scores = _scores(study)
    with drawing():
        figure = Figure(figsize=INCHES, dpi=72)
        for axes, score in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
            draw(axes, score)
            axes.tick_params(labelsize=8)
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="center right", frameon=False, fontsize=8, labelcolor=INK.light)
        longest = max((len(label) for label in labels), default=0)
        right = 0.93 - 0.0075 * longest
        figure.subplots_adjust(left=0.055, right=right, bottom=0.16, top=0.89, wspace=0.3)
        return svg(figure, *name, description, [study.style(method) for method in methods])


def _scores(study: Study) -> list[Score]:
    return [score for key in PANELS for score in study.scores if score.key == key]


def _mark(axes: Axes, study: Study, method: Method, x: float, y: float) -> None:
    style = study.style(method)
    colours: dict[str, Any] = {"mfc": style.colour.light, "mec": GROUND.light}
    axes.plot([x], [y], style.marker, ms=7, zorder=4, linestyle="", label=in_legend(study.label(method)), **colours)


def frontier(study: Study) -> str | None:
    """Return the plot of trained numbers against scores; None unless complete methods train three different counts."""
    trained = {method: count for method in study.complete if (count := _trained(study, method)) is not None}
    if len(set(trained.values())) < ENOUGH:
        return None

    def draw(axes: Axes, score: Score) -> None:
        frame(axes, score.title, "numbers trained")
        log_axis(axes.xaxis)
        for method, count in trained.items():
            means = study.means(*study.last(method), score.key)
            if spread := interval(means):
                ends = [spread.low, spread.high]
                axes.plot([count] * 2, ends, color=study.style(method).colour.light, linewidth=0.9, alpha=0.45)
            _mark(axes, study, method, count, float(np.mean(list(means.values()))))

    name = ("plot-frontier", "Trained numbers against scores")
    return _panels(study, list(trained), draw, name, _frontier_in_words(study, trained))


def _trained(study: Study, method: Method) -> int | None:
    """Return the number of trained parameters of a method; None if unknown."""
    counts = [result.costs["trainable"] for result in study.at(*study.last(method)) if "trainable" in result.costs]
    return int(float(np.max(counts))) if counts else None


def _frontier_in_words(study: Study, trained: dict[Method, int]) -> str:
    parts = []
    for method, count in trained.items():
        means = [(score, list(study.means(*study.last(method), score.key).values())) for score in _scores(study)]
        description = ", ".join(f"{score.title} {score.unit.text(float(np.mean(values)))}" for score, values in means)
        parts.append(f"{study.label(method)} trains {count:,}: {description}")
    return "; ".join(parts) + "."


def zone_plot(study: Study) -> str | None:
    """Return the plot of each method's change of a score over the timesteps it learned in.

    None unless complete methods with an untuned base differ in their timesteps.
    """
    known = strategies(study)
    gains = {score: _gains(study, known, score) for score in _scores(study)}
    shown = {method: strategy for method, strategy in known.items() if all(method in of for of in gains.values())}
    if not differ(shown):
        return None

    def draw(axes: Axes, score: Score) -> None:
        frame(axes, f"{score.title}, change by tuning", "timestep (0 clean, right noise)")
        axes.axhline(0, color=MUTED.light, linewidth=0.8)
        for rank, (method, strategy) in enumerate(shown.items(), start=1):
            _draw_zones(axes, study, method, strategy, gains[score][method], rank / (len(shown) + 1))

    parts = []
    for method, strategy in shown.items():
        changes = ", ".join(f"{score.title} {signed(of[method].mean, score.unit)}" for score, of in gains.items())
        parts.append(f"{study.label(method)} {learned_in(strategy)}: {changes}")
    name = ("plot-zones", "What learning in each interval of timesteps changes")
    return _panels(study, list(shown), draw, name, "; ".join(parts) + ".")


def _gains(study: Study, known: dict[Method, Strategy], score: Score) -> dict[Method, Difference]:
    """Return each complete method's score at its last step minus that of the untuned base of its weights."""
    starts = {method: study.start(method) for method in known if method in study.complete}
    found = {
        method: difference(study, study.last(method), (start, 0), score) for method, start in starts.items() if start
    }
    return {method: gain for method, gain in found.items() if gain is not None}


def _draw_zones(axes: Axes, study: Study, method: Method, strategy: Strategy, gain: Difference, share: float) -> None:
    """Draw a thick line over training zones, a dotted one over sampling zones, and the marker at a share of them."""
    colour, y = study.style(method).colour.light, gain.mean
    for zone in strategy.sampling_zones.zones:
        axes.plot([zone.start, zone.stop], [y, y], ":", color=colour, linewidth=1.0, zorder=2)
    for zone in strategy.training_zones.zones:
        axes.plot([zone.start, zone.stop], [y, y], color=colour, linewidth=2.4, solid_capstyle="butt", zorder=3)
    for before, after in pairwise(strategy.training_zones.zones):
        if before.stop == after.start:
            axes.plot([after.start], [y], "|", ms=8, mec=colour, zorder=3)
    x = _along(strategy.training_zones.zones, share)
    if gain.interval is not None:
        axes.plot([x, x], [gain.interval.low, gain.interval.high], color=colour, linewidth=0.9, alpha=0.6, zorder=2)
    _mark(axes, study, method, x, y)


def _along(zones: Sequence[Zone], share: float) -> float:
    """Return the timestep below which this share of the zones' timesteps is."""
    left = share * sum(zone.stop - zone.start for zone in zones)
    for zone in zones:
        if left <= zone.stop - zone.start:
            return zone.start + left
        left -= zone.stop - zone.start
    return float(zones[-1].stop)
