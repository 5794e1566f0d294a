"""Scatter of metrics against the truth: a point for each subject and setting, a panel for each variant."""

from collections.abc import Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from experiments.rank_correlation import Variant
from quantbooth.reporting.colours import FAINT, INK, MUTED, look
from quantbooth.reporting.plots import RC
from quantbooth.reporting.svg import svg

__all__ = ["scatter"]

PANEL = 3.1
"""Inches."""


def scatter(frame: pd.DataFrame, variants: Sequence[Variant]) -> str:
    """The plot as an SVG string; colours and shapes tell the method.

    `frame` has a row for each picture with its subject, method, setting, metrics and truths.
    """
    methods = tuple(frame["method"].unique())
    with mpl.rc_context(RC):
        figure = Figure(figsize=(PANEL * len(variants), PANEL + 0.5), dpi=72)
        for axes, variant in zip(figure.subplots(1, len(variants), squeeze=False)[0], variants, strict=True):
            columns = ["subject", "method", "setting", variant.column, variant.truth]
            means = frame[columns].dropna().groupby(columns[:3], sort=False).mean().reset_index()
            for method, rows in means.groupby("method", sort=False):
                style = look(str(method), methods)
                axes.plot(
                    rows[variant.truth],
                    rows[variant.column],
                    linestyle="none",
                    marker=style.marker,
                    color=style.tone.light,
                    markersize=4,
                    label=str(method),
                )
            axes.set_title(variant.metric, loc="left", color=INK.light, fontsize=9)
            axes.set_xlabel(variant.truth.replace("_", " "), color=MUTED.light)
            axes.grid(color=FAINT.light, linewidth=0.7)
            axes.set_axisbelow(True)
            axes.tick_params(length=0, labelcolor=MUTED.light)
            for spine in axes.spines.values():
                spine.set_visible(False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False, labelcolor=INK.light)
        figure.subplots_adjust(left=0.07, right=0.98, bottom=0.24, top=0.9, wspace=0.28)
        tones = (INK, MUTED, FAINT, *(look(method, methods).tone for method in methods))
        told = f"{len(variants)} metrics against the truth, a point for each subject and setting: " + "; ".join(
            f"{variant.metric} against {variant.truth}" for variant in variants
        )
        return svg(figure, "plot-validity", "Metrics against the truth", told, tones)
