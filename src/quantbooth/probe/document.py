"""The document of a probe: a plot, tables, and the suggested zones."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quantbooth.probe.decisions import Border, borders, decided
from quantbooth.probe.files import Probe
from quantbooth.reporting.style import INK, MUTED, PALETTE, Style, drawing, frame, svg
from quantbooth.reporting.tables import markdown
from quantbooth.runtime.errors import UserError
from quantbooth.store.files import write_whole

__all__ = ["answers", "probe_plot", "suggested", "write_document"]

SIZE = (7.2, 6.4)


def probe_plot(probe: Probe, zones: dict[str, list[int]]) -> str:
    """Return three panels above each other, with noise on the left, as in sampling."""
    with drawing():
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
        return svg(figure, "plot-probe", "What is decided at which timestep", _told(zones), PALETTE)


TITLES = (
    "decided: share that still matches the first prompt when swapped at t",
    "root mean square distance to the final picture",
    "error without the text / error with it, minus 1",
)


def _frame(axes: Axes, title: str, zones: dict[str, list[int]]) -> None:
    frame(axes, title)
    axes.set_title(title, loc="left", color=INK.light, fontsize=9, pad=16 if title == TITLES[0] else 5)
    for start, _ in list(zones.values())[1:]:
        axes.axvline(start, color=MUTED.light, linewidth=0.8, linestyle=(0, (4, 3)))


def _decided(axes: Axes, probe: Probe) -> None:
    attributes = list(probe.swaps.groupby("attribute", sort=False))
    for style, (name, rows) in zip(PALETTE[: len(attributes)], attributes, strict=True):
        first, second = (rows.pivot(index="pair", columns="t", values=side) for side in ("first", "second"))
        y = decided(first.to_numpy(bool), second.to_numpy(bool))
        _line(axes, first.columns.to_numpy(), y, str(name).replace("_word", ""), style)
    axes.set_ylim(-0.03, 1.03)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=INK.light, fontsize=8)


def _course(axes: Axes, rows: pd.DataFrame) -> None:
    mean = rows.groupby("t")["distance"].mean()
    _line(axes, mean.index.to_numpy(), mean.to_numpy(), "distance", PALETTE[0])
    axes.set_ylim(bottom=0)


def _worth(axes: Axes, rows: pd.DataFrame) -> None:
    mean = rows.groupby("t")[["with_text", "without"]].mean()
    _line(axes, mean.index.to_numpy(), (mean["without"] / mean["with_text"] - 1).to_numpy(), "gain", PALETTE[0])
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, style: Style) -> None:
    axes.plot(x, y, color=style.colour.light, marker=style.marker, markersize=3.5, linewidth=1.6, label=label)


def _told(zones: dict[str, list[int]]) -> str:
    spans = ", ".join(f"{name} {start} to {stop}" for name, (start, stop) in zones.items())
    return f"Decided share of each attribute, course of the picture and gain from the text by timestep; zones: {spans}."


PLOT = "zones.svg"


def write_document(probe: Probe, page: Path, folder: Path, step: int, typed: str) -> dict[str, list[int]]:
    """Write the plot into the folder and the page with it; return the suggested zones."""
    lower, upper = borders(answers(probe), switches(probe), seed=0)
    zones = suggested(lower, upper, step, probe.record.timesteps)
    for place in (folder, page.parent):
        place.mkdir(parents=True, exist_ok=True)
    write_whole(folder / PLOT, probe_plot(probe, zones))
    plot = Path(os.path.relpath(folder / PLOT, page.parent)).as_posix()
    write_whole(page, _page(probe, zones, (lower, upper), step, plot, typed))
    return zones


def answers(probe: Probe) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return by attribute (matches the first prompt, matches the second), each [pairs, switches].

    The scorer's comparison with both prompts is used only without an oracle.
    """
    tables = {
        str(attribute): tuple(rows.pivot(index="pair", columns="t", values=side).to_numpy(bool) for side in SIDES)
        for attribute, rows in probe.swaps.groupby("attribute", sort=False)
    }
    seen = {name: (first, second) for name, (first, second) in tables.items() if name != "prompt"}
    return seen or {name: (first, second) for name, (first, second) in tables.items()}


SIDES = ("first", "second")


def switches(probe: Probe) -> np.ndarray:
    """Return the timesteps of the swaps, ascending."""
    return np.sort(probe.swaps["t"].unique())


def suggested(lower: Border, upper: Border, step: int, timesteps: int) -> dict[str, list[int]]:
    """Return clean-up, content and coarse zones, with borders rounded to multiples of `step`; none is empty.

    Raises:
        UserError: when two borders are equal, because the probe is too coarse or the base decides nothing.
    """
    if not lower.t < upper.t:  # also for nan
        where = "at any t" if np.isnan(lower.t) else f"between t = {lower.t:.0f} and {upper.t:.0f}"
        raise UserError(f"nothing was decided {where}: pictures do not follow the prompt swap; raise probe.pairs")
    low, high = (round(border.t / step) * step for border in (lower, upper))
    if not 0 < low < high < timesteps:
        raise UserError(f"borders must leave three zones, got {low} and {high}; raise probe.pairs or lower probe.round")
    return {"clean_up": [0, low], "content": [low, high], "coarse": [high, timesteps]}


def _page(
    probe: Probe, zones: dict[str, list[int]], found: tuple[Border, Border], step: int, plot: str, typed: str
) -> str:
    record, (lower, upper) = probe.record, found
    intervals = "; ".join(f"{b.t:.0f} (95 % interval {b.low:.0f} to {b.high:.0f})" for b in (lower, upper))
    suggestion = ", ".join(f"{name} [{a}, {b})" for name, (a, b) in zones.items())
    configured = ", ".join(f"{name} [{a}, {b})" for name, (a, b) in record.zones.items())
    parts = [
        f"# Where the base {record.base} decides what",
        f"Made by `{typed}`; run {probe.run}. Base {record.base} ({record.quant}), {record.sampler}, "
        f"seed {record.seed}, judged by {record.scorer}.",
        f"**Zones that follow: {suggestion}.** The mean decided share of the attributes has made 5 % and 95 % of its "
        f"fall at t = {intervals}, over {record.pairs} pairs; rounded to multiples of {step}. The base's configuration "
        f"had: {configured}.",
        f"![what is decided at which timestep]({plot})",
        "## Swapping the prompt",
        f"{record.pairs} pairs of prompts that differ in every attribute. A picture is generated with the first prompt "
        "while t is at least the swap's, with the second below. Share of pictures that match the first / the second "
        "prompt; the rest matches neither.",
        _swap_table(probe),
        "## The course of the picture, and the gain from the text",
        f"{record.questions}. Distance: root mean square difference of the picture predicted at t "
        "and the final one (values in [0, 1]); change: its distance over 100 timesteps. Gain from the text: by how "
        "much the denoising error with the prompt is below that with an empty one, relative to the latter.",
        _course_table(probe),
    ]
    return "\n\n".join(parts) + "\n"


def _swap_table(probe: Probe) -> str:
    shares = probe.swaps.groupby(["t", "attribute"], sort=False)[list(SIDES)].mean().reset_index()
    names = list(dict.fromkeys(shares["attribute"]))
    lines = [["swapped at t", *(name.replace("_word", "") for name in names)]]
    for t in sorted(shares["t"].unique(), reverse=True):
        row = shares[shares["t"] == t].set_index("attribute")
        lines.append([str(t), *(f"{row.loc[n, 'first']:.2f} / {row.loc[n, 'second']:.2f}" for n in names)])
    return markdown(lines[0], lines[1:])


def _course_table(probe: Probe, width: int = 100) -> str:
    """Return means over hundreds of timesteps."""
    course = _binned(probe.forecasts, width)[["distance", "change"]]
    worth = _binned(probe.worth, width)
    gain = 1 - worth["with_text"] / worth["without"]
    lines = [["t", "distance", "change in 100 t", "error", "gain from the text"]]
    for bin_ in course.index.intersection(worth.index):
        first, second = course.loc[bin_]
        error, share = worth.loc[bin_, "with_text"], gain.loc[bin_]
        lines.append(
            [f"{bin_} to {bin_ + width}", f"{first:.3f}", f"{second:.3f}", f"{error:.4f}", f"{100 * share:.1f} %"]
        )
    return markdown(lines[0], lines[1:])


def _binned(rows: pd.DataFrame, width: int) -> pd.DataFrame:
    return rows.groupby((rows["t"] // width * width).astype(int)).mean()
