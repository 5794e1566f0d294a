"""The plot of a probe: decided shares, the picture's course and the worth of the text over t, zones behind them."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quantbooth.artifacts.probe import Probe
from quantbooth.metrics.decisions import decided
from quantbooth.reporting.colours import FAINT, INK, MUTED, OTHERS, Look, look
from quantbooth.reporting.plots import RC
from quantbooth.reporting.svg import svg

__all__ = ["probe_plot"]

SIZE = (7.2, 6.4)
LINES = (*(look(name, ()) for name in ("baseline", "s1", "s2", "s2-apart")), *OTHERS)


def probe_plot(probe: Probe, zones: dict[str, list[int]]) -> str:
    """Three panels above each other, noise on the left as sampling goes."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=SIZE, dpi=72)
        panels = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [3, 2, 2]})
        for axes, title in zip(panels, TITLES, strict=True):
            _frame(axes, title, zones)
        _decided(panels[0], probe)
        _course(panels[1], probe.forecasts)
        _worth(panels[2], probe.worth)
        panels[0].set_xlim(probe.record.timesteps, 0)
        panels[2].set_xlabel("timestep t (sampling goes to the right)", color=MUTED.light)
        for name, (start, stop) in zones.items():
            word = name.replace("_", "-")
            panels[0].text((start + stop) / 2, 1.04, word, ha="center", va="bottom", color=MUTED.light, fontsize=8)
        figure.subplots_adjust(left=0.08, right=0.83, bottom=0.08, top=0.93, hspace=0.32)
        tones = (INK, MUTED, FAINT, *(line.tone for line in LINES))
        return svg(figure, "plot-probe", "What is decided at which timestep", _told(zones), tones)


TITLES = (
    "decided: share still as the first sentence asked when swapped at t",
    "root mean square distance to the finished picture",
    "error without the text / error with it, minus 1",
)


def _frame(axes: Axes, title: str, zones: dict[str, list[int]]) -> None:
    axes.set_title(title, loc="left", color=INK.light, fontsize=9, pad=16 if title == TITLES[0] else 5)
    for start, _ in list(zones.values())[1:]:
        axes.axvline(start, color=MUTED.light, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.grid(color=FAINT.light, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=MUTED.light)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _decided(axes: Axes, probe: Probe) -> None:
    attributes = list(probe.swaps.groupby("attribute", sort=False))
    for style, (name, rows) in zip(LINES[: len(attributes)], attributes, strict=True):
        first, second = (rows.pivot(index="pair", columns="t", values=side) for side in ("first", "second"))
        y = decided(first.to_numpy(bool), second.to_numpy(bool))
        _line(axes, first.columns.to_numpy(), y, str(name).replace("_word", ""), style)
    axes.set_ylim(-0.03, 1.03)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=INK.light, fontsize=8)


def _course(axes: Axes, rows: pd.DataFrame) -> None:
    mean = rows.groupby("t")["distance"].mean()
    _line(axes, mean.index.to_numpy(), mean.to_numpy(), "distance", LINES[0])
    axes.set_ylim(bottom=0)


def _worth(axes: Axes, rows: pd.DataFrame) -> None:
    mean = rows.groupby("t")[["with_text", "without"]].mean()
    _line(axes, mean.index.to_numpy(), (mean["without"] / mean["with_text"] - 1).to_numpy(), "worth", LINES[0])
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, style: Look) -> None:
    axes.plot(x, y, color=style.tone.light, marker=style.marker, markersize=3.5, linewidth=1.6, label=label)


def _told(zones: dict[str, list[int]]) -> str:
    spans = ", ".join(f"{name} {start} to {stop}" for name, (start, stop) in zones.items())
    return f"Decided share of each attribute, course of the picture and worth of the text by timestep; zones: {spans}."
