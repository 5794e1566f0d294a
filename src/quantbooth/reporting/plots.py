"""The trade-off plot: prompt fidelity across, subject fidelity up, an arrowed line per method; and training losses."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from quantbooth.reporting.areas import Curve, curves, front
from quantbooth.reporting.columns import Score, score_named
from quantbooth.reporting.study import Snapshot, Study
from quantbooth.reporting.style import GROUND, INK, MUTED, Style, drawing, frame, in_legend, svg

__all__ = ["losses", "tradeoff"]

Over = Callable[[Study, str, str], tuple[Curve, ...]]
"""Makes the lines of a plot of two scores."""
INCHES = (9.4, 4.8)
LOSS_INCHES = (9.4, 3.0)
DASHES = ("-", "--", ":", "-.")
ROUND = [1, 2, 2.5, 5, 10]
ITERATIONS = 300
"""Iterations of label placement; a number instead of a time limit, so that figures are reproducible."""
MOST_LABELLED = 14
"""Methods of which each has its name in the plot; of more, those on the front and the untuned bases have."""
SMOOTHED = 20
"""Points of a smoothed loss curve, each a mean."""


def tradeoff(study: Study, x: str = "clip_t", y: str = "local_clip_i", over: Over = curves) -> str | None:
    """Return the plot of two scores as an SVG string; None before a method is complete, or without the scores.

    `over` makes the lines: over the steps, or over the strengths at which tuned sets are used.
    """
    across, up = score_named(x), score_named(y)
    lines = over(study, x, y)
    if not lines:
        return None
    styles = [study.style(line.method) for line in lines]
    with drawing():
        figure = Figure(figsize=INCHES, dpi=72)
        axes = figure.add_axes((0.075, 0.115, 0.89, 0.87))
        frame(axes, "", f"{across.title}: {across.axis} →", f"{up.title}: {up.axis} →")
        _limits(axes, lines)
        _edge(axes, lines)
        texts = [
            _draw(axes, line, style, DASHES[_rank(study, line, lines) % len(DASHES)])
            for line, style in zip(lines, styles, strict=True)
        ]
        _place(axes, _labelled(texts, lines), lines)
        name = f"plot-{over.__name__}-{x}-{y}".replace("_", "-")
        return svg(figure, name, f"{up.title} against {across.title}", _in_words(lines, across, up), styles)


def _rank(study: Study, line: Curve, lines: Sequence[Curve]) -> int:
    """Return the rank of a method among those of one colour, which differ in marker and dashes."""
    colour = study.style(line.method).colour
    return [other.method for other in lines if study.style(other.method).colour == colour].index(line.method)


def _limits(axes: Axes, lines: Sequence[Curve]) -> None:
    for low_high, k, pad in ((axes.set_xlim, 0, 0.1), (axes.set_ylim, 1, 0.1)):
        values = [value for line in lines for value in _extent(line, k)]
        room = max((max(values) - min(values)) * pad, 0.004)
        low_high(min(values) - room, max(values) + room)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=ROUND))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=ROUND))


def _extent(line: Curve, axis: int) -> list[float]:
    span = [line.spans[axis].low, line.spans[axis].high] if line.spans and not line.method.untuned else []
    return [*(line.x, line.y)[axis], *span]


def _edge(axes: Axes, lines: Sequence[Curve]) -> None:
    """Draw the Pareto front of all snapshots as a staircase."""
    at = {snapshot: (line.x[k], line.y[k]) for line in lines for k, snapshot in enumerate(line.snapshots)}
    x, y = zip(*(at[snapshot] for snapshot in front(tuple(lines))), strict=True)
    (left, _), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    axes.step([left, *x, x[-1]], [y[0], *y, bottom], where="pre", color=MUTED.light, linewidth=0.8, ls=(0, (1, 2.5)))


def _draw(axes: Axes, line: Curve, style: Style, dashes: str) -> list[Text]:
    """Draw a method's curve with arrowheads; return its labels: the name at its end, steps before."""
    colour, points = style.colour.light, list(zip(line.x, line.y, strict=True))
    strength = "" if line.marks[-1][:1].isdigit() else f" {line.marks[-1]}"
    name = axes.text(*points[-1], f"{line.label}{strength}".rstrip(), color=colour, weight="bold", zorder=7)
    if line.method.untuned:
        axes.plot(*points[-1], "o", ms=9, mfc=GROUND.light, mec=colour, mew=1.8, zorder=5)
        return [name]
    if line.spans:
        (across, up), (x, y) = line.spans, points[-1]
        axes.plot([across.low, across.high], [y, y], color=colour, linewidth=0.9, alpha=0.45, zorder=2)
        axes.plot([x, x], [up.low, up.high], color=colour, linewidth=0.9, alpha=0.45, zorder=2)
    axes.plot(line.x, line.y, dashes, color=colour, linewidth=1.9, solid_capstyle="round", zorder=3)
    for start, end in pairwise(points):
        middle = (0.42 * start[0] + 0.58 * end[0], 0.42 * start[1] + 0.58 * end[1])
        head = {"arrowstyle": "-|>,head_width=0.28,head_length=0.5", "color": colour, "lw": 1.2, "shrinkA": 0}
        axes.annotate("", middle, start, arrowprops=head | {"shrinkB": 0}, zorder=4)
    inner = [k for k, mark in enumerate(line.marks[:-1]) if mark]
    axes.plot([line.x[k] for k in inner], [line.y[k] for k in inner], "o", ms=4, mec=colour, mfc=colour, zorder=4)
    axes.plot(*points[-1], style.marker, ms=9, mfc=colour, mec=GROUND.light, mew=1.2, zorder=6)
    return [name, *(axes.text(*points[k], line.marks[k], color=colour, fontsize=7, zorder=7) for k in inner)]


def _labelled(texts: Sequence[list[Text]], lines: Sequence[Curve]) -> list[Text]:
    """Return the labels to place; of many methods, remove those that nobody could read."""
    if len(lines) <= MOST_LABELLED:
        return [text for of_line in texts for text in of_line]
    ahead = set(front(tuple(lines)))
    kept = [line.method.untuned or not ahead.isdisjoint(line.snapshots) for line in lines]
    for named, (name, *steps) in zip(kept, texts, strict=True):
        for text in steps if named else [name, *steps]:
            text.remove()
    return [of_line[0] for named, of_line in zip(kept, texts, strict=True) if named]


def _place(axes: Axes, texts: list[Text], lines: Sequence[Curve]) -> None:
    """Move labels off lines, points and other labels; a thin line connects one that moved far."""
    share = np.linspace(0, 1, 12)
    tracks = [
        np.stack([a + (b - a) * share for a, b in zip(start, end, strict=True)])
        for line in lines
        for start, end in pairwise(zip(line.x, line.y, strict=True))
    ]
    points = np.concatenate([np.array([line.x, line.y]) for line in lines] + tracks, axis=1)
    adjust_text(
        texts,
        x=points[0],
        y=points[1],
        ax=axes,
        iter_lim=ITERATIONS,
        expand=(1.1, 1.35),
        force_text=(0.2, 0.35),
        min_arrow_len=16,
        arrowprops={"arrowstyle": "-", "color": MUTED.light, "lw": 0.6},
    )


def _in_words(lines: Sequence[Curve], across: Score, up: Score) -> str:
    """Return the plot in words, for screen readers."""
    ends = [f"{c.label}: {across.unit.text(c.x[-1])} and {up.unit.text(c.y[-1])}" for c in lines]
    best = ", ".join(_at(lines, snapshot) for snapshot in front(tuple(lines)))
    return f"Where each method ends, {across.title} and {up.title}: {'; '.join(ends)}. On the Pareto front: {best}."


def _at(lines: Sequence[Curve], snapshot: Snapshot) -> str:
    """Return the label of a snapshot, and its number of steps or its strength."""
    line, mark = next(
        (line, line.marks[line.snapshots.index(snapshot)]) for line in lines if snapshot in line.snapshots
    )
    if not mark:
        return "untuned base"
    return f"{line.label} after {mark} steps" if mark[0].isdigit() else f"{line.label} at {mark}"


def losses(study: Study) -> str | None:
    """Return the plot of training losses by step, a line per run, as an SVG string; None where none was logged."""
    found = {
        method: list({result.run: result.loss for result in study.at(*study.last(method)) if result.loss}.values())
        for method in study.tuned
    }
    found = {method: runs for method, runs in found.items() if runs}
    if not found:
        return None
    with drawing():
        figure = Figure(figsize=LOSS_INCHES, dpi=72)
        axes = figure.add_axes((0.075, 0.17, 0.73, 0.81))
        frame(axes, "", "optimizer step", "training loss")
        for method, runs in found.items():
            style = study.style(method)
            for k, run in enumerate(runs):
                label = in_legend(study.label(method)) if k == 0 else None
                axes.plot(*_smoothed(run), color=style.colour.light, marker=style.marker, ms=3.5, lw=1.4, label=label)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, labelcolor=INK.light)
        ends = [
            f"{study.label(method)} {runs[0][-1][1]:.3f} at step {runs[0][-1][0]:,}" for method, runs in found.items()
        ]
        description = f"The last values logged: {'; '.join(ends)}."
        return svg(figure, "plot-loss", "Training loss by step", description, [study.style(method) for method in found])


def _smoothed(points: Sequence[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """Return means over neighbouring points, so that at most SMOOTHED are left."""
    parts = np.array_split(np.array(points, dtype=float), min(SMOOTHED, len(points)))
    steps, values = zip(*(part.mean(axis=0) for part in parts), strict=True)
    return list(map(float, steps)), list(map(float, values))
