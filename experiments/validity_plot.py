"""Scatter of metrics against the truth: a point for each subject and setting, a panel for each variant."""

import math
from collections.abc import Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.rank_correlation import Variant
from quantbooth.commands.report import method_styles
from quantbooth.reporting.style import FAINT, INK, MUTED, RC, Style, assign_styles, svg

__all__ = ["scatter", "shortly"]

PANEL = 2.6
"""Inches."""
ACROSS = 4
REGIONS, GREY = "regions by ", "background grey"


def scatter(frame: pd.DataFrame, variants: Sequence[Variant]) -> str:
    """The plot as an SVG string; colours and shapes tell the method.

    `frame` has a row for each picture with its subject, method, setting, metrics and truths.
    """
    names, down = list(map(str, frame["method"].unique())), math.ceil(len(variants) / ACROSS)
    styles = dict(zip(names, assign_styles([(name, False) for name in names], method_styles()), strict=True))
    with mpl.rc_context(RC):
        figure = Figure(figsize=(PANEL * ACROSS, PANEL * down + 0.4), dpi=72)
        panels = list(figure.subplots(down, ACROSS, squeeze=False).flat)
        for axes in panels:
            axes.set_axis_off()
        for axes, variant in zip(panels, variants, strict=False):
            _panel(axes, frame, variant, styles)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False, labelcolor=INK.light)
        figure.subplots_adjust(
            left=0.05, right=0.99, bottom=0.9 / (PANEL * down + 0.4), top=0.95, wspace=0.3, hspace=0.45
        )
        told = f"{len(variants)} metrics against the truth, a point for each subject and setting: " + "; ".join(
            f"{shortly(variant)} against {variant.truth}" for variant in variants
        )
        return svg(figure, "plot-validity", "Metrics against the truth", told, styles.values())


def shortly(variant: Variant) -> str:
    """The metric, with the first words of what located its regions."""
    _, local, locator = variant.measured_with.partition(REGIONS)
    words = " ".join(locator.replace(",", "").split()[:2]).removesuffix(" of")
    grey = ", grey" if GREY in locator else ""
    return f"{variant.metric}, {words}{grey}" if local else variant.metric


def _panel(axes: Axes, frame: pd.DataFrame, variant: Variant, styles: dict[str, Style]) -> None:
    columns = ["subject", "method", "setting", variant.column, variant.truth]
    means = frame[columns].dropna().groupby(columns[:3], sort=False).mean().reset_index()
    for method, rows in means.groupby("method", sort=False):
        style = styles[str(method)]
        axes.plot(
            rows[variant.truth],
            rows[variant.column],
            linestyle="none",
            marker=style.marker,
            color=style.colour.light,
            markersize=4,
            label=str(method),
        )
    axes.set_axis_on()
    axes.set_title(shortly(variant), loc="left", color=INK.light, fontsize=8)
    axes.set_xlabel(variant.truth.replace("_", " "), color=MUTED.light)
    axes.grid(color=FAINT.light, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=MUTED.light)
    for spine in axes.spines.values():
        spine.set_visible(False)
