"""The plots of a degradation study, a panel for each zone: added error against bits, deviation against an option."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from quantbooth.degradation.files import DegradationResult
from quantbooth.degradation.study import DegradationStudy
from quantbooth.reporting.style import GROUND, INK, MUTED, PALETTE, Style, drawing, frame, svg

__all__ = ["Swept", "curve_plot", "error_plot", "swept"]

WIDTH, HEIGHT, ROW = 2.35, 2.8, 0.2
"""Inches of a panel, and of a line of the legend."""
LETTER, HANDLE = 6.0, 40
"""Points of a letter of the legend, and of the marker before a name."""
LINEAR = 0.01
ASIDE = 0.08
"""Horizontal distance of families at one bit-width, so that they do not overlap."""
TICKS = (0, 0.01, 0.1, 1, 10, 100)
SHARES = tuple(factor * 10.0**power for power in range(-3, 3) for factor in (1, 2, 5))
DASHES = ("-", "--", ":", "-.")
LEAST = 3


def _panels(study: DegradationStudy, draw: Callable[[Axes, str], None], up: str, texts: tuple[str, str, str]) -> str:
    """Return a figure with a panel for each zone and a common legend above, as an SVG string."""
    zones = list(study.reference.record.zones)
    width = WIDTH * len(zones) + 0.4
    with drawing():
        figure = Figure(figsize=(width, HEIGHT), dpi=72)
        panels = figure.subplots(1, len(zones), sharey=True, squeeze=False)[0]
        for axes, zone in zip(panels, zones, strict=True):
            draw(axes, zone)
            axes.yaxis.set_minor_locator(NullLocator())
        panels[0].set_ylabel(up, color=MUTED.light)
        handles, names = panels[0].get_legend_handles_labels()
        columns = max(1, int(72 * width / (LETTER * max(map(len, names), default=1) + HANDLE)))
        above = ROW * -(-len(names) // columns) + 0.3
        figure.set_size_inches(width, HEIGHT + above)
        figure.legend(handles, names, loc="upper center", ncols=columns, frameon=False, labelcolor=INK.light)
        edges = {"bottom": 0.45 / (HEIGHT + above), "top": 1 - above / (HEIGHT + above)}
        figure.subplots_adjust(left=0.13, right=0.985, wspace=0.08, **edges)
        return svg(figure, *texts, PALETTE)


def error_plot(study: DegradationStudy, table: pd.DataFrame) -> str:
    """Return relative added error against bits as an SVG string; linear up to 1 %, logarithmic above."""
    zones = study.reference.record.zones
    ends = [table[f"{zone}_relative_{end}"] for zone in zones for end in ("low", "high")]
    bottom = min(0.0, *(end.min() for end in ends)) - 0.3 * LINEAR
    top = 1.5 * max(0.1, *(end.max() for end in ends))

    def draw(axes: Axes, zone: str) -> None:
        start, stop = zones[zone]
        frame(axes, f"{zone} [{start}, {stop})")
        axes.set_xticks(range(len(study.quants)), study.quants)
        axes.set_xlim(-0.4, len(study.quants) - 0.6)
        axes.set_yscale("symlog", linthresh=LINEAR, linscale=0.5)
        axes.yaxis.set_major_locator(FixedLocator(TICKS))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:,.0f} %"))
        for family in study.families:
            _line(axes, study, table, zone, family)
        axes.set_ylim(bottom, top)

    description = "Error added to that of the float prediction. " + _in_words(
        study, table, "+.1f", lambda row, z: row[f"{z}_relative"]
    )
    texts = ("plot-damage", "Prediction error added by quantization", description)
    return _panels(study, draw, "error added, share of float's", texts)


def _line(axes: Axes, study: DegradationStudy, table: pd.DataFrame, zone: str, family: str) -> None:
    """Draw one family over its bit-widths, with intervals; the first family of a calibration has filled markers."""
    found = [result for result in study.settings if study.family(result) == family]
    calibrations = list(dict.fromkeys(result.record.calibration for result in study.settings))
    own = found[0].record.calibration
    style = PALETTE[calibrations.index(own) % len(PALETTE)]
    kin = dict.fromkeys(study.family(d) for d in study.settings if d.record.calibration == own)
    rank = list(kin).index(family)
    aside = ASIDE * (study.families.index(family) - (len(study.families) - 1) / 2)
    x = [study.quants.index(result.record.quant) + aside for result in found]
    rows = table.loc[[study.label(result) for result in found]]
    y, colour = rows[f"{zone}_relative"], style.colour.light
    spread = (y - rows[f"{zone}_relative_low"], rows[f"{zone}_relative_high"] - y)
    axes.errorbar(x, y, yerr=spread, fmt="none", ecolor=colour, elinewidth=0.9, alpha=0.6)
    mark: dict[str, Any] = {"marker": style.marker, "mfc": GROUND.light if rank else colour, "ms": 6, "mew": 1.2}
    axes.plot(x, y, DASHES[rank % len(DASHES)], color=colour, linewidth=1.6, label=family or "added", **mark)


@dataclass(frozen=True)
class Swept:
    """An option of one calibration that took several numbers, e.g. `rounding.iterations` of qdiffusion."""

    calibration: str
    option: str

    def value(self, result: DegradationResult) -> float | None:
        """Return the setting's number; None where it is of another calibration."""
        value = result.record.options.get(self.option)
        ours = result.record.calibration == self.calibration
        return float(value) if ours and isinstance(value, int | float) else None


def swept(study: DegradationStudy) -> Swept | None:
    """Return the first option with three numbers or more."""
    for result in study.settings:
        for option in result.record.options:
            found = Swept(result.record.calibration, option)
            if len({found.value(other) for other in study.settings} - {None}) >= LEAST:
                return found
    return None


def curve_plot(study: DegradationStudy, table: pd.DataFrame, what: Swept) -> str:
    """Return deviation from float against the option as an SVG string; other calibrations are level lines."""
    values = sorted({value for result in study.settings if (value := what.value(result)) is not None})

    def draw(axes: Axes, zone: str) -> None:
        frame(axes, zone, what.option)
        for quant, style in zip(study.quants, PALETTE, strict=False):
            _curve(axes, study, table, what, zone, [d for d in study.settings if d.record.quant == quant], style)
        axes.set_xscale("log" if values[0] > 0 else "linear")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_locator(FixedLocator(SHARES))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))

    said = f"Mean squared difference to the float prediction, share of float's error, by {what.option}."
    texts = ("plot-curve", f"Deviation by {what.option}", f"{said} {_in_words(study, table, '.1f', _share)}")
    return _panels(study, draw, "deviation, share of float's error", texts)


def _curve(
    axes: Axes,
    study: DegradationStudy,
    table: pd.DataFrame,
    what: Swept,
    zone: str,
    alike: Sequence[DegradationResult],
    style: Style,
) -> None:
    """Draw one bit-width: the swept settings as a curve, the others as level lines."""
    shares = {result.run: _share(table.loc[study.label(result)], zone) for result in alike}
    on = sorted((value, result.run) for result in alike if (value := what.value(result)) is not None)
    line: dict[str, Any] = {"color": style.colour.light, "marker": style.marker, "ms": 5}
    label = f"{alike[0].record.quant}, {what.calibration}"
    if on:
        axes.plot([value for value, _ in on], [shares[run] for _, run in on], "-", label=label, **line)
    for result, dashes in zip((d for d in alike if what.value(d) is None), DASHES[1:], strict=False):
        axes.axhline(shares[result.run], ls=dashes, lw=1, color=style.colour.light, label=study.label(result))


def _share(row: pd.Series, zone: str) -> float:
    return float(row[f"{zone}_deviation"] / row[f"{zone}_float_error"])


def _in_words(study: DegradationStudy, table: pd.DataFrame, form: str, value: Callable[[pd.Series, str], float]) -> str:
    """Return the number of each setting and zone in words, for screen readers."""
    parts = []
    for label in map(study.label, study.settings):
        row = table.loc[label]
        parts.append(
            f"{label}: " + ", ".join(f"{z} {100 * value(row, z):{form}} %" for z in study.reference.record.zones)
        )
    return "; ".join(parts) + "."
