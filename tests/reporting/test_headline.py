"""The headline says what the numbers say: signs, unsettled differences, and how little one subject proves."""

from collections.abc import Callable

import numpy as np

from quantbooth.reporting.headline import asked, headline, incomplete
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study

Make = Callable[..., Result]


def test_signs_and_figures_against_the_baseline_on_one_subject(four: list[Result]) -> None:
    assert headline(Study(tuple(four))) == (
        "Against the baseline, on toy_mug: s1 follows the prompt better (CLIP-T +0.030) but resembles the subject "
        "less (local CLIP-I −0.021); s2 follows the prompt better (CLIP-T +0.020) and resembles the subject no "
        "differently (local CLIP-I 0.000); one subject is no proof."
    )


def test_an_unsettled_difference_is_called_so(make: Make) -> None:
    rng = np.random.default_rng(0)
    results = []
    for k, shift in enumerate(rng.normal(0, 0.05, size=12)):
        results.append(make("baseline", f"subject {k}", clip_t=0.3, local_clip_i=0.7))
        results.append(make("s1", f"subject {k}", clip_t=0.3 + shift, local_clip_i=0.75 + shift / 50))
    text = headline(Study(tuple(results)))
    assert "over 12 subjects: s1 follows the prompt with no settled difference" in text
    assert "resembles the subject more" in text and text.endswith("± spans the 95 % interval over subjects.")


def test_few_subjects_are_called_few(make: Make) -> None:
    results = [make(m, s, clip_t=t) for m, t in (("baseline", 0.2), ("s1", 0.3)) for s in ("mug", "duck", "car")]
    assert "3 subjects are few" in headline(Study(tuple(results)))


def test_without_a_baseline_the_base_is_the_measure(make: Make) -> None:
    study = Study((make("base", step=0, clip_t=0.31, local_clip_i=0.6), make("s1", clip_t=0.29, local_clip_i=0.7)))
    assert headline(study).startswith("Against the untuned base, on toy_mug: s1 follows the prompt worse")


def test_an_unfinished_sweep_compares_only_what_is_complete(make: Make) -> None:
    results = [make(m, s) for m in ("baseline", "float") for s in ("mug", "duck")] + [make("s1", "mug")]
    study = Study(tuple(results))
    assert "float follows" in headline(study) and "s1" not in headline(study)
    assert incomplete(study) == ["s1 lacks duck"]
    lone = Study((make("baseline", "mug"), make("s1", "duck")))
    assert headline(lone).startswith("Nothing can be compared yet")


def test_what_was_asked_names_methods_base_and_subjects(four: list[Result]) -> None:
    text = asked(Study(tuple(four)))
    assert "float, baseline, s1 and s2 personalized the base toy for toy_mug." in text
    assert "5 prompts from the same noise" in text
