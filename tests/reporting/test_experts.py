"""What experts see and serve: rows of the plot, shares in it, and what is left out with its reason."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pytest

from quantbooth.reporting.experts import experts_left_out, experts_plot
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study
from quantbooth.timesteps.samplers import LogitNormal, Uniform
from quantbooth.timesteps.strategies import Strategy, baseline, s1, s1s2, s2, s2_from_s1, tas

Make = Callable[..., Result]
ZONES = {"clean_up": [0, 354], "content": [354, 934], "coarse": [934, 1000]}
STEPS = tuple(float(t) for t in range(1, 1000, 20))


@pytest.fixture
def drawn(make: Make) -> Callable[..., Result]:
    def build(method: str, strategy: Strategy, subject: str = "mug", **given: Any) -> Result:
        known = {"density": Uniform(), "sampled": STEPS, "settings": {"strength": 1.0, "tuner": {"steps": 400}}}
        return make(method, subject, strategy=strategy, **(known | given))

    return build


def described(text: str | None) -> tuple[str, list[str]]:
    """Return the description and the other texts of a plot."""
    assert text is not None
    ElementTree.fromstring(text)
    (told,) = re.findall(r"<desc[^>]*>(.*?)</desc>", text)
    return told, re.findall(r"<text[^>]*>([^<]*)</text>", text)


def test_each_expert_has_its_share_of_samples_and_of_steps(drawn: Callable[..., Result]) -> None:
    results = (drawn("s2", s2(ZONES, False, 1000)), drawn("s1", s1([354, 934], "base", 1000)))
    told, words = described(experts_plot(Study(results)))
    assert "content sees 58 % of the samples of its run and serves 29 of 50 steps" in told
    assert "selected sees 100 % of the samples of its run and serves 29 of 50 steps, the base alone serves 21" in told
    assert [word for word in words if word.endswith("%")] == [
        *("100 %", "58 %", "42 %"),  # s1: seen, served, by the base
        *("35 %", "58 %", "7 %", "36 %", "58 %", "6 %"),
    ]
    assert experts_left_out(Study(results)) == ""


def test_methods_that_are_alike_share_a_row(drawn: Callable[..., Result]) -> None:
    results = [drawn(name, baseline(1000)) for name in ("baseline", "other")]
    assert experts_plot(Study(tuple(results))) is None
    told, words = described(experts_plot(Study((*results, drawn("tas", tas(30, 1000))))))
    assert "baseline, other" in words and told.startswith("baseline, other: ")
    assert "30 sets see 3 % to 3 % of the samples each, serve 1 to 2 of 50 steps" in told


def test_a_density_shared_steps_and_a_wide_set_are_told(drawn: Callable[..., Result]) -> None:
    results = (
        drawn("baseline", baseline(1000), density=LogitNormal(0.0, 1.0, "reject")),
        drawn("s2-from-s1", s2_from_s1(ZONES, 100, 400, 1000)),
        drawn("s1s2", s1s2(ZONES, [200, 1000], 1000)),
    )
    assert experts_plot(Study(results[:1])) is not None
    told, words = described(experts_plot(Study(results)))
    assert "coarse sees 30 % of the samples" in told
    assert "wide sees 80 % of the samples of its run and serves 40 of 50 steps" in told
    assert "wide: sees 80 %, serves 80 %" in words


def test_what_is_not_known_is_left_out_by_name(drawn: Callable[..., Result]) -> None:
    experts = s2(ZONES, False, 1000)
    results = (
        drawn("a", experts, sampled=()),
        drawn("b", experts, density=None),
        drawn("c", experts, settings={"strength": {"content": 0.5}}),
        drawn("d", experts),
        drawn("d", s2({**ZONES, "clean_up": [0, 300]}, False, 1000), subject="duck"),
    )
    assert experts_left_out(Study(results)) == (
        "Left out: a (with pictures whose steps are not known). Left out: b (of unknown timesteps of training). "
        "Left out: c (of a strength by timestep). Left out: d (with other timesteps for each subject)."
    )
    assert experts_plot(Study(results)) is None
