"""The headline claims what is settled, and says so where nothing is."""

from collections.abc import Callable

import numpy as np

from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study
from quantbooth.reporting.summary import asked, headline, incomplete

Make = Callable[..., Result]
CLAIMS = ("follows the prompt", "resembles the subject")


def test_one_subject_claims_nothing(four: Study) -> None:
    assert not any(claim in headline(four) for claim in CLAIMS)
    assert "settled" in headline(four) and headline(four).count(".") == 1


def test_only_what_is_settled_is_claimed(make: Make) -> None:
    rng = np.random.default_rng(0)
    results = []
    for k, shift in enumerate(rng.normal(0, 0.05, size=12)):
        results.append(make("baseline", f"subject {k}", clip_t=0.3, local_clip_i=0.7))
        results.append(make("s1", f"subject {k}", clip_t=0.3 + shift, local_clip_i=0.75 + shift / 50))
    text = headline(Study(tuple(results)))
    assert "s1 resembles the subject more (local CLIP-I +0.050" in text
    assert "follows the prompt" not in text and "12" in text


def test_few_subjects_claim_nothing_however_large_the_difference(make: Make) -> None:
    results = [make(m, s, clip_t=t) for m, t in (("baseline", 0.2), ("s1", 0.9)) for s in ("mug", "duck", "car")]
    text = headline(Study(tuple(results)))
    assert not any(claim in text for claim in CLAIMS) and "3" in text


def test_six_equal_subjects_settle_nothing(make: Make) -> None:
    text = headline(Study(tuple(make(m, f"subject {k}") for m in ("baseline", "s1") for k in range(6))))
    assert "baseline" in text and "s1" not in text


def test_without_a_baseline_the_base_is_the_measure(make: Make) -> None:
    results = []
    for k in range(6):
        results.append(make("base", f"subject {k}", step=0, clip_t=0.31, local_clip_i=0.6))
        results.append(make("s1", f"subject {k}", clip_t=0.29 + k / 1000, local_clip_i=0.7))
    text = headline(Study(tuple(results)))
    assert "untuned base" in text and "s1 follows the prompt worse" in text and "resembles the subject more" in text


def test_an_unfinished_sweep_compares_only_what_is_complete(make: Make) -> None:
    results = [make(m, s) for m in ("baseline", "float") for s in ("mug", "duck")] + [make("s1", "mug")]
    assert incomplete(Study(tuple(results))) == ["s1 lacks duck"]
    lone = Study((make("baseline", "mug"), make("s1", "duck")))
    assert headline(lone).startswith("Nothing can be compared yet")


def test_what_was_asked_names_methods_base_and_subjects(four: Study) -> None:
    text = asked(four)
    assert "float, baseline, s1 and s2" in text and "base toy" in text and "toy_mug" in text and "5 prompts" in text
