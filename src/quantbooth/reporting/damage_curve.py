"""The curve over an option: deviation from float against a number of a calibration that was swept, by bits."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from quantbooth.artifacts.damage import Damage
from quantbooth.reporting.colours import FAINT, GROUND, INK, LOOKS, MUTED, Look
from quantbooth.reporting.damage_study import DamageStudy
from quantbooth.reporting.plots import RC
from quantbooth.reporting.svg import svg

__all__ = ["Swept", "curve_plot", "swept"]

PANEL = (2.5, 3.6)
LEAST = 3
DASHES = ("--", ":", "-.")
LINES: tuple[Look, ...] = tuple(LOOKS[name] for name in ("baseline", "s1", "s2", "s2-apart"))
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


@dataclass(frozen=True)
class Swept:
    """An option of one calibration that took several numbers, e.g. `rounding.iterations` of qdiffusion."""

    calibration: str
    option: str

    def value(self, damage: Damage) -> float | None:
        """The setting's number; None where it is of another calibration."""
        value = damage.record.options.get(self.option)
        ours = damage.record.calibration == self.calibration
        return float(value) if ours and isinstance(value, int | float) else None


def swept(study: DamageStudy) -> Swept | None:
    """The first option with three numbers or more."""
    for damage in study.settings:
        for option in damage.record.options:
            found = Swept(damage.record.calibration, option)
            if len({found.value(other) for other in study.settings} - {None}) >= LEAST:
                return found
    return None


def curve_plot(study: DamageStudy, table: pd.DataFrame, what: Swept) -> str:
    """The plot as an SVG string, both scales logarithmic; other calibrations at the same bits are level lines."""
    zones = list(study.reference.record.zones)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(PANEL[0] * len(zones) + 0.4, PANEL[1]), dpi=72)
        panels = figure.subplots(1, len(zones), sharey=True, squeeze=False)[0]
        for axes, zone in zip(panels, zones, strict=True):
            for quant, look in zip(study.quants, LINES, strict=False):
                _lines(axes, study, table, what, zone, quant, look)
            _frame(axes, zone, what)
            _ticks(axes, study, what)
        panels[0].set_ylabel("deviation, share of float's error", color=MUTED.light)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="upper center", ncols=3, frameon=False, labelcolor=INK.light)
        rows = (len(names) + 2) // 3
        figure.subplots_adjust(left=0.13, right=0.985, bottom=0.17, top=0.9 - 0.08 * rows, wspace=0.08)
        tones = (INK, MUTED, FAINT, GROUND, *(look.tone for look in LINES))
        return svg(figure, "plot-curve", f"Deviation by {what.option}", _told(study, table, what, zones), tones)


def _lines(axes: Axes, study: DamageStudy, table: pd.DataFrame, what: Swept, zone: str, quant: str, look: Look) -> None:
    """One bit-width: what was swept as a curve, what was not as level lines."""
    colour = look.tone.light
    alike = [damage for damage in study.settings if damage.record.quant == quant]
    on = sorted((value, damage.run, damage) for damage in alike if (value := what.value(damage)) is not None)
    shares = [_share(table, study.label(damage), zone) for _, _, damage in on]
    axes.plot(
        [value for value, *_ in on],
        shares,
        "-",
        marker=look.marker,
        ms=5,
        color=colour,
        label=f"{quant}, {what.calibration}",
    )
    off = [damage for damage in alike if what.value(damage) is None]
    for damage, dashes in zip(off, DASHES, strict=False):
        axes.axhline(_share(table, study.label(damage), zone), ls=dashes, lw=1, color=colour, label=study.label(damage))


def _share(table: pd.DataFrame, label: str, zone: str) -> float:
    row = table.loc[label]
    return float(row[f"{zone}_deviation"] / row[f"{zone}_float_error"])


def _frame(axes: Axes, zone: str, what: Swept) -> None:
    axes.set_title(zone, color=INK.light, fontsize=9)
    axes.set_xlabel(what.option, color=MUTED.light)
    axes.grid(color=FAINT.light, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=MUTED.light, pad=4)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _ticks(axes: Axes, study: DamageStudy, what: Swept) -> None:
    values = sorted({value for damage in study.settings if (value := what.value(damage)) is not None})
    if values[0] > 0:
        axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(FixedLocator(SHARES))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())


def _told(study: DamageStudy, table: pd.DataFrame, what: Swept, zones: Sequence[str]) -> str:
    """The plot in words, for those who do not see it."""
    parts = []
    for damage in study.settings:
        label = study.label(damage)
        parts.append(f"{label}: " + ", ".join(f"{zone} {100 * _share(table, label, zone):.1f} %" for zone in zones))
    said = f"Mean squared difference to the float prediction, share of float's error, by {what.option}."
    return f"{said} {'; '.join(parts)}."
