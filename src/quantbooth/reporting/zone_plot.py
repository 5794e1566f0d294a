"""The plot of intervals: which timesteps each method learned in, and its change of a score over them.

Which timesteps each method learned in, in words, and whether the methods of a study differ in that.

The plot of intervals: each method's change of a score drawn over the timesteps that it learned in.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quantbooth.reporting.claims import Difference, difference_between, last
from quantbooth.reporting.columns import Score, signed
from quantbooth.reporting.plots import RC
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import BASE, Arm, Study
from quantbooth.reporting.style import FAINT, GROUND, INK, MUTED, look, svg
from quantbooth.timesteps.strategies import Strategy
from quantbooth.timesteps.zones import Zone, Zones

__all__ = ["differ", "learned_in", "strategies", "zone_plot"]

UNNAMED = re.compile(r"selected|part\d+")
"""Names that zones have for want of one."""
ALL = "all"


def strategies(study: Study) -> dict[Arm, Strategy]:
    """The strategy of every tuned method, where its runs at the last step agree on one."""
    found = {}
    for arm in (arm for arm in study.arms if not arm.untuned):
        own = {result.strategy for result in study.at(arm, last(study, arm))}
        if len(own) == 1 and (strategy := own.pop()) is not None:
            found[arm] = strategy
    return found


def differ(found: dict[Arm, Strategy]) -> bool:
    """Whether two methods learned in, or are served in, different timesteps."""
    return len({(one.trained, one.served) for one in found.values()}) > 1


def learned_in(strategy: Strategy) -> str:
    """The intervals of training timesteps, and what serves the others."""
    learned = _listed(strategy.trained)
    text = f"learned in {learned}{'' if learned == ALL else ' of'} {strategy.trained.timesteps:,} timesteps"
    if strategy.apart:
        text += ", each interval in a run of its own"
    if strategy.served != strategy.trained:
        return f"{text}; serves {_listed(strategy.served)}"
    covered = sum(zone.stop - zone.start for zone in strategy.served.zones)
    return text if covered == strategy.served.timesteps else f"{text}; the base serves the others"


def _listed(zones: Zones) -> str:
    if [(zone.start, zone.stop) for zone in zones.zones] == [(0, zones.timesteps)]:
        return ALL
    return ", ".join(f"[{z.start}, {z.stop})" if UNNAMED.fullmatch(z.name) else str(z) for z in zones.zones)


INCHES, RIGHT = (9.4, 3.3), 0.79
PANELS = ("oracle_subject", "local_clip_i", "clip_t")
Gains = dict[Arm, Difference]


def zone_plot(results: Sequence[Result]) -> str | None:
    """The plot as an SVG string; None unless complete methods with an untuned base differ in their timesteps.

    Raises:
        UserError: the results do not compare.
    """
    study = Study(tuple(results))
    known = strategies(study)
    scores = [score for key in PANELS for score in study.scores if score.key == key]
    gains = {score: _gains(study, known, score) for score in scores}
    shown = {arm: strategy for arm, strategy in known.items() if all(arm in of for of in gains.values())}
    if not differ(shown):
        return None
    methods = tuple(dict.fromkeys(arm.method for arm in study.arms))
    with mpl.rc_context(RC):
        figure = Figure(figsize=INCHES, dpi=72)
        for axes, score in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
            _panel(axes, study, shown, gains[score], score)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="center right", frameon=False, fontsize=8, labelcolor=INK.light)
        figure.subplots_adjust(left=0.06, right=RIGHT, bottom=0.16, top=0.89, wspace=0.3)
        tones = (INK, MUTED, FAINT, GROUND, *(look(arm.method, methods).tone for arm in shown))
        title = "What learning in each interval of timesteps changes"
        return svg(figure, "plot-zones", title, _told(study, shown, gains), tones)


def _gains(study: Study, known: dict[Arm, Strategy], score: Score) -> Gains:
    """Each method's score at its last step minus that of the untuned base of its weights."""
    found = {}
    for arm in known:
        start = Arm(BASE, arm.quant)
        if (
            start in study.arms
            and not study.lacking(arm)
            and (gain := difference_between(study, (arm, last(study, arm)), (start, 0), score))
        ):
            found[arm] = gain
    return found


def _panel(axes: Axes, study: Study, shown: dict[Arm, Strategy], gains: Gains, score: Score) -> None:
    axes.set_title(f"{score.title}, change by tuning", loc="left", color=INK.light, fontsize=9)
    axes.set_xlabel("timestep (0 clean, right noise)", color=MUTED.light)
    axes.grid(color=FAINT.light, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=MUTED.light)
    axes.axhline(0, color=MUTED.light, linewidth=0.8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for rank, (arm, strategy) in enumerate(shown.items()):
        _draw(axes, study, arm, strategy, gains[arm], (rank + 1) / (len(shown) + 1))


def _draw(axes: Axes, study: Study, arm: Arm, strategy: Strategy, gain: Difference, share: float) -> None:
    """A thick line over what was learned, a dotted one over what is served, the mark at a share of it."""
    style = look(arm.method, tuple(dict.fromkeys(other.method for other in study.arms)))
    colour, y = style.tone.light, gain.mean
    for zone in strategy.served.zones:
        axes.plot([zone.start, zone.stop], [y, y], ":", color=colour, linewidth=1.0, zorder=2)
    for zone in strategy.trained.zones:
        axes.plot([zone.start, zone.stop], [y, y], color=colour, linewidth=2.4, solid_capstyle="butt", zorder=3)
    for before, after in pairwise(strategy.trained.zones):
        if before.stop == after.start:
            axes.plot([after.start], [y], "|", ms=8, mec=colour, zorder=3)
    x = _along(strategy.trained.zones, share)
    if gain.interval is not None:
        axes.plot([x, x], [gain.interval.low, gain.interval.high], color=colour, linewidth=0.9, alpha=0.6, zorder=2)
    label = study.label(arm)
    axes.plot([x], [y], style.marker, ms=7, mfc=colour, mec=GROUND.light, linestyle="", label=label, zorder=4)


def _along(zones: Sequence[Zone], share: float) -> float:
    """The timestep below which such a share of the zones' timesteps lies."""
    left = share * sum(zone.stop - zone.start for zone in zones)
    for zone in zones:
        if left <= zone.stop - zone.start:
            return zone.start + left
        left -= zone.stop - zone.start
    return float(zones[-1].stop)


def _told(study: Study, shown: dict[Arm, Strategy], gains: dict[Score, Gains]) -> str:
    """The plot in words."""
    parts = []
    for arm, strategy in shown.items():
        changes = ", ".join(f"{score.title} {signed(of[arm].mean, score.unit)}" for score, of in gains.items())
        parts.append(f"{study.label(arm)} {learned_in(strategy)}: {changes}")
    return "; ".join(parts) + "."
