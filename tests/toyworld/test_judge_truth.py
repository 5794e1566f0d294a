"""What judges are taught is true: right answers, captions, and pools that hold what they must and no subject."""

import numpy as np
import pytest

from quantbooth.toyworld.captions import words
from quantbooth.toyworld.judge_pools import FAMILY, independent_scenes, random_scenes, related_scenes
from quantbooth.toyworld.judge_truth import (
    ORACLE_NAMES,
    answers,
    full_caption,
    holds,
    scorer_caption,
    scorer_words,
    seen,
)
from quantbooth.toyworld.subjects import SUBJECTS
from quantbooth.toyworld.world import EMBLEMS, LAYOUTS, PATTERNS


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


def test_families_share_their_class_and_differ_in_marks_but_never_show_a_subjects() -> None:
    scenes = related_scenes(400 * FAMILY, _rng())
    families = [scenes[start : start + FAMILY] for start in range(0, len(scenes), FAMILY)]
    assert all(len({scene.class_word for scene in family}) == 1 for family in families)
    assert np.mean([len({(s.pattern, s.emblem) for s in family}) > 1 for family in families]) > 0.95
    assert np.mean([len({s.colour for s in family}) < FAMILY for family in families]) > 0.8
    for subject in SUBJECTS.values():
        own = [scene for scene in scenes if scene.class_word == subject.class_word]
        assert subject.emblem not in {scene.emblem for scene in own}
        assert subject.pattern not in {scene.pattern for scene in own}


def test_a_number_of_scenes_that_is_no_whole_number_of_families_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        related_scenes(6, _rng())


def test_a_caption_holds_where_all_it_names_is_so() -> None:
    rng = _rng()
    scenes = related_scenes(40, rng)
    captions = [scorer_caption(scene, rng) for scene in scenes]
    found = holds(captions, scenes)
    assert found.diagonal().all()
    for i, scene in enumerate(scenes):
        for j, caption in enumerate(captions):
            so = all(getattr(scene, name) == getattr(scenes[j], name) for name in caption.named)
            assert found[i, j] == so


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
