"""Training data of the judges: true labels and captions, and pools without personal subjects."""

import numpy as np
import pytest

from quantbooth_toyworld.captions import words
from quantbooth_toyworld.judge_data import (
    ORACLE_NAMES,
    answers,
    full_caption,
    independent_scenes,
    random_scenes,
    scorer_caption,
    scorer_words,
    seen,
)
from quantbooth_toyworld.world import EMBLEMS, LAYOUTS, PATTERNS, SUBJECTS


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_plain_body_shows_no_second_colour_and_absence_is_a_value() -> None:
    for scene in random_scenes(200, _rng()):
        found = seen(scene)
        assert found.keys() == ORACLE_NAMES.keys()
        assert (found["second"] == "none") == (scene.pattern == "plain")
        assert (found["emblem"] == "none") == (scene.emblem is None)


def test_answers_point_at_what_is_seen() -> None:
    scenes = independent_scenes(50, _rng())
    found = answers(scenes)
    for row, scene in enumerate(scenes):
        assert {name: ORACLE_NAMES[name][found[name][row]] for name in found} == seen(scene)


def test_independent_scenes_hold_every_pair_of_class_and_mark_but_no_subject() -> None:
    scenes = independent_scenes(3000, _rng())
    pairs = {(scene.class_word, scene.emblem, scene.pattern) for scene in scenes}
    for subject in SUBJECTS.values():
        assert any(pair[:2] == (subject.class_word, subject.emblem) for pair in pairs)
        assert any(pair[::2] == (subject.class_word, subject.pattern) for pair in pairs)
    subjects = {(s.class_word, s.colour, s.second, s.pattern, s.emblem) for s in SUBJECTS.values()}
    assert not subjects & {(s.class_word, s.colour, s.second, s.pattern, s.emblem) for s in scenes}
    assert np.mean([scene.emblem is not None for scene in scenes]) == pytest.approx(0.5, abs=0.05)


def test_full_captions_name_all_that_captions_can_name() -> None:
    rng = _rng()
    for scene in random_scenes(100, rng):
        named = set(full_caption(scene, rng).text.split())
        assert {scene.class_word, scene.colour, *scene.context.split()} <= named
        assert scene.accessory is None or set(scene.accessory.split()) <= named
        assert scene.pattern not in PATTERNS[1:] or {scene.pattern, scene.second} <= named


def test_the_scorers_captions_stay_in_its_words_and_name_marks_that_the_bases_never_do() -> None:
    rng = _rng()
    spoken = {word for scene in random_scenes(2000, rng) for word in scorer_caption(scene, rng).text.split()}
    assert spoken <= set(scorer_words())
    assert spoken >= set(LAYOUTS + EMBLEMS)
    assert not set(LAYOUTS + EMBLEMS) & set(words())
    assert set(words()) <= set(scorer_words())
