"""Intervals of timesteps: told in words, and drawn where methods differ in them and can be held against the base."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

from quantbooth.reporting.panels import _along, differ, learned_in, strategies, zone_plot
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Method, Study
from quantbooth.timesteps.strategies import baseline, graded, s1, s2, s2_from_s1

Make = Callable[..., Result]
ZONES = {"clean_up": [0, 200], "content": [200, 750], "coarse": [750, 1000]}


def _ablation(make: Make) -> list[Result]:
    """Two intervals and the baseline on two subjects, .1 and .2 and .3 above the base."""
    results = []
    for subject, more in (("mug", 0.0), ("duck", 0.02)):
        results.append(make("base", subject, step=0, local_clip_i=0.5))
        for method, gain, strategy in (
            ("s1-0-200", 0.1, s1([0, 200], "base", 1000)),
            ("s1-200-750", 0.2, s1([200, 750], "tuned", 1000)),
            ("baseline", 0.3, baseline(1000)),
        ):
            results.append(make(method, subject, local_clip_i=0.5 + gain + more, strategy=strategy))
    return results


def test_words_say_what_is_learned_and_what_serves_the_rest() -> None:
    assert learned_in(baseline(1000)) == "learned in all 1,000 timesteps"
    assert learned_in(graded(0.5, 1000)).endswith(
        "all 1,000 timesteps, at a strength that falls with noise from 1 to 0.5"
    )
    assert learned_in(s2_from_s1(ZONES, 50, 100, 1000)).endswith("timesteps, by one set in the first 50 steps")
    assert learned_in(s1([200, 750], "base", 1000)) == "learned in [200, 750) of 1,000 timesteps; elsewhere the base"
    assert learned_in(s1([200, 750], "tuned", 1000)).endswith("[200, 750) of 1,000 timesteps; used in all")
    assert learned_in(s2(ZONES, True, 1000)) == (
        "learned in clean_up [0, 200), content [200, 750), coarse [750, 1000) of 1,000 timesteps, each interval in a "
        "separate run"
    )


def test_runs_that_disagree_have_no_strategy_to_tell(make: Make) -> None:
    one, other = s1([0, 200], "base", 1000), s1([0, 300], "base", 1000)
    results = [make("s1", "mug", strategy=one), make("s1", "duck", strategy=other), make("baseline", "mug")]
    assert strategies(Study(tuple(results))) == {}
    assert strategies(Study((make("s1", strategy=one),))) == {Method("s1", "w4"): one}
    assert not differ({Method("s1", "w4"): one}) and differ({Method("a", "w4"): one, Method("b", "w4"): other})


def test_the_plot_tells_each_interval_and_what_it_changed(make: Make) -> None:
    text = zone_plot(Study(tuple(_ablation(make))))
    assert text is not None
    ElementTree.fromstring(text)
    (told,) = re.findall(r"<desc[^>]*>(.*?)</desc>", text)
    assert "s1-0-200 learned in [0, 200) of 1,000 timesteps; elsewhere the base" in told
    assert "local CLIP-I +0.110" in told and "local CLIP-I +0.210" in told and "local CLIP-I +0.310" in told
    words = set(re.findall(r"<text[^>]*>([^<]*)</text>", text))
    assert {"s1-0-200", "s1-200-750", "baseline", "local CLIP-I, change by tuning"} <= words
    assert text == zone_plot(Study(tuple(_ablation(make))))


def test_no_plot_without_difference_base_or_completeness(make: Make) -> None:
    results = _ablation(make)
    assert zone_plot(Study(tuple(r for r in results if r.method in ("base", "baseline")))) is None
    assert zone_plot(Study(tuple(r for r in results if r.method != "base"))) is None
    unfinished = [r for r in results if r.subject == "mug" or r.method in ("base", "baseline")]
    assert zone_plot(Study(tuple(unfinished))) is None


def test_marks_lie_on_what_was_learned() -> None:
    zones = s2({"low": [0, 100], "high": [900, 1000]}, False, 1000).training_zones.zones
    assert [_along(zones, share) for share in (0.25, 0.5, 0.75)] == [50, 100, 950]
