"""The damage plot: relative added error against bits, a panel for each zone, a line for each family of settings."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from quantbooth.reporting.colours import FAINT, GROUND, INK, MUTED, Look, look
from quantbooth.reporting.damage_study import DamageStudy
from quantbooth.reporting.plots import RC
from quantbooth.reporting.svg import svg

__all__ = ["error_plot"]

PANEL = (2.35, 2.9)
LINEAR = 0.01
APART = 0.08
"""How far families stand apart at one bit-width, lest they hide each other."""
TICKS = (0, 0.01, 0.1, 1, 10, 100)
DASHES = ("-", "--", ":", "-.")


def error_plot(study: DamageStudy, table: pd.DataFrame) -> str:
    """The plot as an SVG string; the scale is linear up to 1 %, logarithmic above."""
    zones = list(study.reference.record.zones)
    calibrations = tuple(dict.fromkeys(damage.record.calibration for damage in study.settings))
    with mpl.rc_context(RC):
        figure = Figure(figsize=(PANEL[0] * len(zones) + 0.4, PANEL[1]), dpi=72)
        panels = figure.subplots(1, len(zones), sharey=True, squeeze=False)[0]
        for axes, zone in zip(panels, zones, strict=True):
            _frame(axes, zone, study)
            for family in study.families:
                _line(axes, study, table, zone, family, calibrations)
        panels[0].set_ylabel("error added, share of float's", color=MUTED.light)
        _range(panels[0], table, zones)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="upper center", ncols=2, frameon=False, labelcolor=INK.light)
        top = 1 - (0.09 * ((len(names) + 1) // 2) + 0.09)
        figure.subplots_adjust(left=0.12, right=0.985, bottom=0.1, top=top, wspace=0.08)
        tones = (INK, MUTED, FAINT, GROUND, *(look(name, calibrations).tone for name in calibrations))
        return svg(figure, "plot-damage", "Prediction error added by quantization", _told(study, table, zones), tones)


def _frame(axes: Axes, zone: str, study: DamageStudy) -> None:
    start, stop = study.reference.record.zones[zone]
    axes.set_title(f"{zone} [{start}, {stop})", color=INK.light, fontsize=9)
    axes.set_xticks(range(len(study.quants)), study.quants)
    axes.set_xlim(-0.4, len(study.quants) - 0.6)
    axes.set_yscale("symlog", linthresh=LINEAR, linscale=0.5)
    axes.yaxis.set_major_locator(FixedLocator(TICKS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:,.0f} %"))
    axes.grid(color=FAINT.light, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=MUTED.light, pad=4)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _line(
    axes: Axes, study: DamageStudy, table: pd.DataFrame, zone: str, family: str, calibrations: tuple[str, ...]
) -> None:
    """One family through its bit-widths, with intervals."""
    found = [damage for damage in study.settings if study.family(damage) == family]
    style, rank = look(found[0].record.calibration, calibrations), _rank(study, family)
    rows = table.loc[[study.label(damage) for damage in found]]
    aside = APART * (study.families.index(family) - (len(study.families) - 1) / 2)
    x = [study.quants.index(damage.record.quant) + aside for damage in found]
    y = rows[f"{zone}_relative"]
    spread = (y - rows[f"{zone}_relative_low"], rows[f"{zone}_relative_high"] - y)
    axes.errorbar(x, y, yerr=spread, fmt="none", ecolor=style.tone.light, elinewidth=0.9, alpha=0.6)
    axes.plot(x, y, DASHES[rank % len(DASHES)], label=family or "added", **_mark(style, rank))


def _mark(style: Look, rank: int) -> dict[str, Any]:
    """The first family of a calibration has filled marks, the others hollow ones."""
    face = style.tone.light if rank == 0 else GROUND.light
    return {"color": style.tone.light, "marker": style.marker, "mfc": face, "ms": 6, "mew": 1.2, "linewidth": 1.6}


def _rank(study: DamageStudy, family: str) -> int:
    """Which of the families of one calibration this is: they share a colour and differ in dashes and marks."""
    calibration = next(d.record.calibration for d in study.settings if study.family(d) == family)
    same = dict.fromkeys(study.family(d) for d in study.settings if d.record.calibration == calibration)
    return list(same).index(family)


def _range(axes: Axes, table: pd.DataFrame, zones: Sequence[str]) -> None:
    """From a little below the smallest to above the largest, 0 and 10 % always in sight."""
    ends = [table[f"{zone}_relative_{end}"] for zone in zones for end in ("low", "high")]
    low, high = min(end.min() for end in ends), max(end.max() for end in ends)
    axes.set_ylim(min(0.0, low) - 0.3 * LINEAR, max(0.1, high) * 1.5)


def _told(study: DamageStudy, table: pd.DataFrame, zones: Sequence[str]) -> str:
    """The plot in words, for those who do not see it."""
    parts = []
    for damage in study.settings:
        row = table.loc[study.label(damage)]
        parts.append(f"{study.label(damage)}: " + ", ".join(f"{z} {100 * row[f'{z}_relative']:+.1f} %" for z in zones))
    return "Error added to that of the float prediction. " + "; ".join(parts) + "."
