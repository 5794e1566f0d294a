"""The frontier plot: how many numbers are trained against what they buy, one panel for each score."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quantbooth.reporting.claims import interval, last
from quantbooth.reporting.columns import Score
from quantbooth.reporting.plots import RC
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Arm, Study
from quantbooth.reporting.style import FAINT, GROUND, INK, MUTED, look, svg

__all__ = ["frontier"]

INCHES = (9.4, 3.3)
PANELS = ("oracle_subject", "local_clip_i", "clip_t")
ENOUGH = 3


def frontier(results: Sequence[Result]) -> str | None:
    """The plot as an SVG string; None unless complete methods train three different counts of numbers or more.

    Raises:
        UserError: the results do not compare.
    """
    study = Study(tuple(results))
    arms = [arm for arm in study.arms if not arm.untuned and not study.lacking(arm)]
    trained = {arm: count for arm in arms if (count := _trained(study, arm)) is not None}
    if len(set(trained.values())) < ENOUGH:
        return None
    scores = [score for key in PANELS for score in study.scores if score.key == key]
    methods = tuple(dict.fromkeys(arm.method for arm in study.arms))
    with mpl.rc_context(RC):
        figure = Figure(figsize=INCHES, dpi=72)
        for axes, score in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
            _panel(axes, study, trained, score)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="center right", frameon=False, fontsize=8, labelcolor=INK.light)
        figure.subplots_adjust(left=0.05, right=0.79, bottom=0.16, top=0.89, wspace=0.24)
        tones = (INK, MUTED, FAINT, GROUND, *(look(arm.method, methods).tone for arm in trained))
        return svg(figure, "plot-frontier", "Trained numbers against scores", _told(study, trained, scores), tones)


def _trained(study: Study, arm: Arm) -> int | None:
    """How many numbers the method trained; None where no run says so."""
    counts = [result.costs["trainable"] for result in study.at(arm, last(study, arm)) if "trainable" in result.costs]
    return int(float(np.max(counts))) if counts else None


def _panel(axes: Axes, study: Study, trained: dict[Arm, int], score: Score) -> None:
    methods = tuple(dict.fromkeys(arm.method for arm in study.arms))
    axes.set_title(score.title, loc="left", color=INK.light, fontsize=9)
    axes.set_xscale("log")
    axes.set_xlabel("numbers trained", color=MUTED.light)
    axes.grid(color=FAINT.light, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, which="both", labelcolor=MUTED.light)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for arm, count in trained.items():
        style, means = look(arm.method, methods), study.means(arm, last(study, arm), score.key)
        height, colour = float(np.mean(list(means.values()))), style.tone.light
        if spread := interval(means):
            axes.plot([count, count], [spread.low, spread.high], color=colour, linewidth=0.9, alpha=0.45)
        label = study.label(arm)
        axes.plot([count], [height], style.marker, ms=7, mfc=colour, mec=GROUND.light, linestyle="", label=label)


def _told(study: Study, trained: dict[Arm, int], scores: Sequence[Score]) -> str:
    """The plot in words."""
    parts = []
    for arm, count in trained.items():
        means = [(score, list(study.means(arm, last(study, arm), score.key).values())) for score in scores]
        told = ", ".join(f"{score.title} {score.unit.text(float(np.mean(values)))}" for score, values in means)
        parts.append(f"{study.label(arm)} trains {count:,}: {told}")
    return "; ".join(parts) + "."
