"""The plot of what each expert sees in training and serves in sampling: density of timesteps, steps of the sampler."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from quantbooth.reporting.naming import Method
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study
from quantbooth.reporting.style import INK, MUTED, Style, drawing, frame, svg
from quantbooth.timesteps.samplers import TimestepSampler
from quantbooth.timesteps.shares import seen, serving
from quantbooth.timesteps.strategies import Strategy

__all__ = ["experts_left_out", "experts_plot"]

WIDTH, ROW, LEFT, RIGHT, FOOT, HEAD = 9.4, 0.95, 2.15, 0.3, 0.55, 0.05
"""Inches."""
HIGHEST, WIDE, SEEN, RUG, SERVED = 0.4, 0.44, 0.52, (0.05, 0.16), 0.24
"""Above and below the line of a row, in rows."""
LETTERS, LINES = 27, 4
"""Of the names at a row."""
MOST_TOLD = 8
"""Sets of which each is told in words."""
STRENGTHS = ("strength", "unconditional_strength")
NARROWEST = 0.045
"""Share of all timesteps that a number of percent needs."""


@dataclass(frozen=True)
class Experts:
    """The sets of a method, what timesteps of training are drawn by, and those of the sampler."""

    strategy: Strategy
    density: TimestepSampler
    sampled: tuple[float, ...]
    shared: float

    @property
    def plain(self) -> bool:
        """Whether it is one set, tuned and used at all timesteps alike."""
        strategy = self.strategy
        covered = [(zone.start, zone.stop) for zone in strategy.training_zones.zones]
        return (
            strategy.sets == 1 and covered == [(0, strategy.training_zones.timesteps)] and not self.density.describe()
        )

    @property
    def seen(self) -> Float[Tensor, "sets timesteps"]:
        """What each set sees (see `timesteps.shares`)."""
        return seen(self.strategy, self.density, self.shared)

    @property
    def serving(self) -> Bool[Tensor, "steps sets"]:
        """Whether each set acts at each step."""
        return serving(self.strategy, torch.tensor(self.sampled))


def experts_plot(study: Study) -> str | None:
    """Return the plot, a row for methods that are alike in it; None where all are one plain set."""
    rows = _rows(study)
    if all(one.plain for one, _ in rows):
        return None
    height = HEAD + ROW * len(rows) + FOOT
    longest = max(one.strategy.training_zones.timesteps for one, _ in rows)
    with drawing():
        figure = Figure(figsize=(WIDTH, height), dpi=72)
        axes = figure.add_axes((LEFT / WIDTH, FOOT / height, 1 - (LEFT + RIGHT) / WIDTH, 1 - (FOOT + HEAD) / height))
        frame(axes, "", "timestep (0 clean, right noise)")
        axes.grid(visible=False, axis="y")
        axes.set(xlim=(0, longest), ylim=(len(rows) - 0.62, -0.66), yticks=[])
        for row, (one, methods) in enumerate(rows):
            style = study.style(methods[0])
            _write_names(axes, study, one, methods, row)
            _draw_seen(axes, one, style, row)
            _draw_served(axes, one, style, row)
        styles = [study.style(method) for _, methods in rows for method in methods]
        told = "; ".join(_in_words(study, one, methods) for one, methods in rows)
        return svg(
            figure, "plot-experts", "What each expert sees in training and serves in sampling", f"{told}.", styles
        )


def experts_left_out(study: Study) -> str:
    """Return a sentence on the methods that the plot leaves out, and why; nothing where it has all of them."""
    found: dict[str, list[str]] = {}
    for method in study.tuned:
        if isinstance(why := _experts(study, method), str):
            found.setdefault(why, []).append(study.label(method))
    return " ".join(f"Left out: {', '.join(names)} ({why})." for why, names in found.items())


def _rows(study: Study) -> list[tuple[Experts, list[Method]]]:
    """Return what is known of the experts of each method, once for those that are alike."""
    found: dict[str, tuple[Experts, list[Method]]] = {}
    for method in study.tuned:
        one = _experts(study, method)
        if not isinstance(one, str):
            same = {**one.strategy.describe(), "name": None, "density": one.density.describe()}
            found.setdefault(json.dumps([same, one.sampled, one.shared]), (one, []))[1].append(method)
    return list(found.values())


def _experts(study: Study, method: Method) -> Experts | str:
    """Return the experts of a method at its last step, or why they are not known."""
    at = study.at(*study.last(method))
    if any(isinstance(result.settings.get(key), Mapping) for result in at for key in STRENGTHS):
        return "of a strength by timestep"
    known = [(result.strategy, result.density, result.sampled, _shared(result)) for result in at]
    if any(one != known[0] for one in known):
        return "with other timesteps for each subject"
    strategy, density, sampled, shared = known[0]
    if strategy is None or density is None or shared is None:
        return "of unknown timesteps of training"
    return Experts(strategy, density, sampled, shared) if sampled else "with pictures whose steps are not known"


def _shared(result: Result) -> float | None:
    """Return the share of the planned optimizer steps in which all experts are one set; None if unknown."""
    if result.strategy is None or not result.strategy.shared_steps:
        return 0.0
    planned = result.settings.get("tuner", {}).get("steps")
    return result.strategy.shared_steps / planned if planned else None


def _write_names(axes: Axes, study: Study, one: Experts, methods: Sequence[Method], row: int) -> None:
    """Write the names of methods to the left of their row, and the shares of a wide set below."""
    lines = textwrap.wrap(", ".join(study.label(method) for method in methods), LETTERS)
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"… {len(methods)} methods"]
    place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "annotation_clip": False}
    style = {"ha": "right", "va": "center", "color": study.style(methods[0]).colour.light, "linespacing": 1.15}
    axes.annotate("\n".join(lines), (0, row - 0.12), (-10, 0), **place, **style, fontsize=8)  # type: ignore[arg-type]
    if one.strategy.wide is not None:
        sees, serves = float(one.seen[0].sum()), float(one.serving[:, 0].double().mean())
        told = f"wide: sees {_percent(sees)}, serves {_percent(serves)}"
        below = {**place, "ha": "right", "va": "center", "color": MUTED.light, "fontsize": 7}
        axes.annotate(told, (0, row + 0.05 + 0.08 * len(lines)), (-10, 0), **below)  # type: ignore[arg-type]


def _draw_seen(axes: Axes, one: Experts, style: Style, row: int) -> None:
    """Fill the density of each expert over its zone, with its share of the samples."""
    strategy, rows, colour = one.strategy, one.seen, style.colour.light
    experts = rows if strategy.wide is None else rows[1:]
    height = HIGHEST / float(experts.max())
    shares = [_percent(share) for share in rows.sum(dim=1).tolist()]
    axes.plot([0, strategy.training_zones.timesteps], [row, row], color=MUTED.light, linewidth=0.6, zorder=3)
    for number, name in enumerate(strategy.training_zones.names):
        zones = strategy.training_zones.named(name).zones
        for zone in zones:
            t = torch.arange(zone.start, zone.stop + 1)
            up = experts[number][t.clamp(max=zone.stop - 1)] * height
            below = {"color": colour, "linewidth": 0, "alpha": 0.5 if number % 2 == 0 else 0.28}
            axes.fill_between(t.tolist(), row, (row - up).tolist(), **below)  # type: ignore[arg-type]
            axes.plot(t.tolist(), (row - up).tolist(), color=colour, linewidth=1.0)
            if one.shared:
                axes.plot(t.tolist(), (row - one.shared * up).tolist(), "--", color=colour, linewidth=0.8)
        _write_share(axes, [(z.start, z.stop) for z in zones], row - SEEN, shares[number - len(experts)], INK.light)
    if (wide := strategy.wide) is not None:
        axes.plot([wide.start, wide.stop], [row - WIDE] * 2, color=colour, linewidth=2.4, solid_capstyle="butt")


def _draw_served(axes: Axes, one: Experts, style: Style, row: int) -> None:
    """Draw a tick for each step of the sampler, grey where the base alone serves, with the shares of the steps."""
    strategy, serves, t = one.strategy, one.serving, torch.tensor(one.sampled)
    tuned = serves.any(dim=1)
    for steps, colour in ((t[tuned], style.colour.light), (t[~tuned], MUTED.light)):
        axes.vlines(steps.tolist(), row + RUG[0], row + RUG[1], color=colour, linewidth=1.1)
    places = [(strategy.sampling_zones.named(name).zones, column) for column, name in _columns(strategy)]
    for zones, column in places:
        share = float(serves[:, column].double().mean())
        _write_share(axes, [(z.start, z.stop) for z in zones], row + SERVED, _percent(share), style.colour.light)
    inside = sorted((zone.start, zone.stop) for zone in strategy.sampling_zones.zones)
    ends = [(0, 0), *inside, (strategy.sampling_zones.timesteps,) * 2]
    gaps = [(before[1], after[0]) for before, after in pairwise(ends) if after[0] > before[1]]
    if gaps:
        _write_share(axes, gaps, row + SERVED, _percent(float((~tuned).double().mean())), MUTED.light)


def _columns(strategy: Strategy) -> list[tuple[int, str]]:
    """Return the number of each expert among all sets, and its name."""
    first = strategy.sets - len(strategy.sampling_zones)
    return list(enumerate(strategy.sampling_zones.names, start=first))


def _write_share(axes: Axes, spans: Sequence[tuple[int, int]], y: float, text: str, colour: str) -> None:
    """Write a share in the middle of the widest interval, if there is room."""
    start, stop = max(spans, key=lambda span: span[1] - span[0])
    if stop - start >= NARROWEST * axes.get_xlim()[1]:
        axes.text((start + stop) / 2, y, text, ha="center", va="center", fontsize=7, color=colour, zorder=5)


def _percent(share: float) -> str:
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def _in_words(study: Study, one: Experts, methods: Sequence[Method]) -> str:
    serves, shares = one.serving, one.seen.sum(dim=1)
    steps, counts = f"of {len(one.sampled)} steps", serves.sum(dim=0).tolist()
    parts = [
        f"{name} sees {_percent(share)} of the samples of its run and serves {count} {steps}"
        for name, share, count in zip(one.strategy.names, shares.tolist(), counts, strict=True)
    ]
    if len(parts) > MOST_TOLD:
        least, most = (_percent(float(end)) for end in (shares.min(), shares.max()))
        parts = [f"{len(parts)} sets see {least} to {most} of the samples each"]
        parts += [f"serve {min(counts)} to {max(counts)} {steps}"]
    if alone := int((~serves.any(dim=1)).sum()):
        parts.append(f"the base alone serves {alone} {steps}")
    return f"{', '.join(study.label(method) for method in methods)}: {', '.join(parts)}"
