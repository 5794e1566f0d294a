"""A search in the report: its trials with parameters and objectives, and their Pareto set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quantbooth.reporting.areas import nondominated
from quantbooth.reporting.columns import NOTHING, Score, score_named
from quantbooth.reporting.naming import parameters_of
from quantbooth.reporting.study import Method, Study
from quantbooth.reporting.style import BASE_STYLE, GROUND, MUTED, PALETTE, drawing, frame, svg
from quantbooth.reporting.tables import Cell, Column, Row, Table
from quantbooth.runtime.errors import UserError

__all__ = ["Trial", "pareto_plot", "trial_table", "trials"]

INCHES = (9.4, 4.2)
FRONT = "front"
NAN = float("nan")


@dataclass(frozen=True)
class Trial:
    """One setting: its parameters as `name=value`, the objectives in their order, and its place on the front.

    Attributes:
        method: the row of the tables.
        parameters: the options in which trials differ.
        values: means of the last step; NaN where the setting lacks a subject, a seed or the score.
        place: on the front, 1 where the first objective is highest; None for a trial that another passes.
    """

    method: Method
    parameters: tuple[str, ...]
    values: tuple[float, ...]
    place: int | None = None


def trials(study: Study, objectives: Sequence[str]) -> tuple[Trial, ...]:
    """Return the tuned settings of a study as trials: the front by its first objective, then the others by theirs.

    Raises:
        UserError: for an objective that was not scored.
    """
    scored = [score.key for score in study.scores]
    if unknown := [name for name in objectives if name not in scored]:
        raise UserError(f"objectives has {', '.join(unknown)}, which these results lack; they have {', '.join(scored)}")
    if not study.tuned:
        return ()
    parameters = parameters_of([study.at(*study.last(method))[0] for method in study.tuned])
    found = [
        Trial(method, own, tuple(_value(study, method, key) for key in objectives))
        for method, own in zip(study.tuned, parameters, strict=True)
    ]
    ahead = nondominated([one.values for one in found])
    first = [k for k in _descending(found) if ahead[k]]
    others = [k for k in _descending(found) if not ahead[k]]
    return tuple([replace(found[k], place=place) for place, k in enumerate(first, 1)] + [found[k] for k in others])


def _value(study: Study, method: Method, key: str) -> float:
    means = study.means(*study.last(method), key)
    complete = method in study.complete and len(means) == len(study.subjects)
    return float(np.mean(list(means.values()))) if complete else NAN


def _descending(found: Sequence[Trial]) -> list[int]:
    """Return indices by the objectives, the highest first and undefined ones last."""
    return sorted(range(len(found)), key=lambda k: [float("inf") if np.isnan(v) else -v for v in found[k].values])


def trial_table(study: Study, objectives: Sequence[str]) -> Table:
    """Return a row per trial: place on the front, parameters, objectives; those of the front are marked."""
    found = trials(study, objectives)
    names = list(dict.fromkeys(text.partition("=")[0] for one in found for text in one.parameters))
    scores = [score_named(key) for key in objectives]
    columns = [Column(FRONT, FRONT), *(Column(f"option {name}", name) for name in names)]
    columns += [Column(score.key, score.header()) for score in scores]
    rows = []
    for one in found:
        own = dict(text.split("=", 1) for text in one.parameters)
        cells = {FRONT: Cell(str(one.place or NOTHING), value=one.place or "")}
        cells |= {f"option {name}": Cell(_short(text), value=text) for name, text in own.items()}
        for score, value in zip(scores, one.values, strict=True):
            cells[score.key] = Cell(score.unit.text(value), marked=one.place is not None, value=value)
        rows.append(Row(study.label(replace(one.method, options=())), cells))
    return Table("trial", tuple(columns), tuple(rows), (_explained(found, scores),) if found else ())


def _short(text: str) -> str:
    """Return a number with four digits, any other value as it is."""
    try:
        return f"{float(text):.4g}" if "." in text or "e-" in text else text
    except ValueError:
        return text


def _explained(found: Sequence[Trial], scores: Sequence[Score]) -> str:
    names = " and ".join(score.title for score in scores)
    count = sum(one.place is not None for one in found)
    if len(scores) == 1:
        return f"{len(found)} different trials; front: the highest {names}, chosen on the scores that are shown."
    undefined = sum(bool(np.isnan(one.values).any()) for one in found)
    lacking = f" {undefined} without every objective are on no front." if undefined else ""
    return (
        f"{len(found)} different trials, {count} on the front (the Pareto set): no other has as much {names} and more "
        f"of one; equal ones stay.{lacking} It is chosen on the scores that are shown: measure it again on others."
    )


def pareto_plot(study: Study, objectives: Sequence[str]) -> str | None:
    """Return the plot of the trials by their first two objectives as an SVG string; None for one objective.

    The front is joined by a staircase where there are two objectives; of more, it is a set of points.
    """
    known = [one for one in trials(study, objectives) if not np.isnan(one.values).any()] if len(objectives) > 1 else []
    if not known:
        return None
    across, up = (score_named(key) for key in objectives[:2])
    with drawing():
        figure = Figure(figsize=INCHES, dpi=72)
        axes = figure.add_axes((0.085, 0.13, 0.89, 0.84))
        frame(axes, "", f"{across.title}: {across.axis} →", f"{up.title}: {up.axis} →")
        axes.margins(0.08)
        axes.xaxis.set_major_locator(MaxNLocator(8))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        for one in known:
            _draw(axes, one)
        for method in (method for method in study.methods if method.untuned):
            point = [_mean(study, method, key) for key in objectives[:2]]
            axes.plot(*point, "o", ms=9, mfc=GROUND.light, mec=BASE_STYLE.colour.light, mew=1.8, zorder=3)
        ahead = [one for one in known if one.place is not None]
        if len(objectives) == 2:
            x, y = zip(*(one.values for one in reversed(ahead)), strict=True)
            axes.step(x, y, where="pre", color=MUTED.light, linewidth=0.8, ls=(0, (1, 2.5)), zorder=2)
        words = "; ".join(
            f"{one.place}: {across.unit.text(one.values[0])} and {up.unit.text(one.values[1])}" for one in ahead
        )
        said = f"{len(known)} trials by {across.title} and {up.title}. On the front: {words}."
        return svg(figure, "plot-pareto", "Trials and their Pareto set", said, [PALETTE[0], BASE_STYLE])


def _draw(axes: Axes, one: Trial) -> None:
    """Draw a trial: filled with its place where it is on the front, else a small grey dot."""
    if one.place is None:
        axes.plot(*one.values[:2], "o", ms=5, mfc=MUTED.light, mec=MUTED.light, alpha=0.6, zorder=3)
        return
    colour = PALETTE[0].colour.light
    axes.plot(*one.values[:2], "o", ms=9, mfc=colour, mec=GROUND.light, mew=1.2, zorder=5)
    above: dict[str, Any] = {"xytext": (7, 5), "textcoords": "offset points", "color": colour, "weight": "bold"}
    axes.annotate(str(one.place), (one.values[0], one.values[1]), **above)


def _mean(study: Study, method: Method, key: str) -> float:
    means = study.means(*study.last(method), key)
    return float(np.mean(list(means.values()))) if means else NAN
