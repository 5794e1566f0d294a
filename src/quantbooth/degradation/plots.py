"""The plots of a degradation study: added error against bits, deviation against an option of calibration.

The damage plot: relative added error against bits, a panel for each zone, a line for each family of settings.

The curve over an option: deviation from float against a number of a calibration that was swept, by bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from quantbooth.degradation.files import Damage
from quantbooth.degradation.study import DamageStudy
from quantbooth.reporting.plots import RC
from quantbooth.reporting.style import FAINT, GROUND, INK, LOOKS, MUTED, Look, look, svg

__all__ = ["Swept", "curve_plot", "error_plot", "swept"]

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


DAMAGE_CURVE_PANEL = (2.5, 3.6)
LEAST = 3
DAMAGE_CURVE_DASHES = ("--", ":", "-.")
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
        figure = Figure(figsize=(DAMAGE_CURVE_PANEL[0] * len(zones) + 0.4, DAMAGE_CURVE_PANEL[1]), dpi=72)
        panels = figure.subplots(1, len(zones), sharey=True, squeeze=False)[0]
        for axes, zone in zip(panels, zones, strict=True):
            for quant, look in zip(study.quants, LINES, strict=False):
                _lines(axes, study, table, what, zone, quant, look)
            _damage_curve_frame(axes, zone, what)
            _ticks(axes, study, what)
        panels[0].set_ylabel("deviation, share of float's error", color=MUTED.light)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="upper center", ncols=3, frameon=False, labelcolor=INK.light)
        rows = (len(names) + 2) // 3
        figure.subplots_adjust(left=0.13, right=0.985, bottom=0.17, top=0.9 - 0.08 * rows, wspace=0.08)
        tones = (INK, MUTED, FAINT, GROUND, *(look.tone for look in LINES))
        return svg(
            figure, "plot-curve", f"Deviation by {what.option}", _damage_curve_told(study, table, what, zones), tones
        )


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
    for damage, dashes in zip(off, DAMAGE_CURVE_DASHES, strict=False):
        axes.axhline(_share(table, study.label(damage), zone), ls=dashes, lw=1, color=colour, label=study.label(damage))


def _share(table: pd.DataFrame, label: str, zone: str) -> float:
    row = table.loc[label]
    return float(row[f"{zone}_deviation"] / row[f"{zone}_float_error"])


def _damage_curve_frame(axes: Axes, zone: str, what: Swept) -> None:
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


def _damage_curve_told(study: DamageStudy, table: pd.DataFrame, what: Swept, zones: Sequence[str]) -> str:
    """The plot in words, for those who do not see it."""
    parts = []
    for damage in study.settings:
        label = study.label(damage)
        parts.append(f"{label}: " + ", ".join(f"{zone} {100 * _share(table, label, zone):.1f} %" for zone in zones))
    said = f"Mean squared difference to the float prediction, share of float's error, by {what.option}."
    return f"{said} {'; '.join(parts)}."
