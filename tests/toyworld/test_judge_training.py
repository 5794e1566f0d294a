"""What judges are taught: right answers, captions, disturbances and losses against obvious twins."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from quantbooth.toyworld.captions import words
from quantbooth.toyworld.judge_pools import independent_scenes, random_scenes, render_pool
from quantbooth.toyworld.judge_training import (
    ORACLE_NAMES,
    answers,
    attribute_loss,
    contrastive_loss,
    disturbed,
    full_caption,
    mask_loss,
    moved,
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


def test_full_captions_name_all_that_captions_can_name() -> None:
    rng = _rng()
    for scene in random_scenes(100, rng):
        named = set(full_caption(scene, rng).split())
        assert {scene.class_word, scene.colour, *scene.context.split()} <= named
        assert scene.accessory is None or set(scene.accessory.split()) <= named
        assert scene.pattern not in PATTERNS[1:] or {scene.pattern, scene.second} <= named


def test_the_scorers_captions_stay_in_its_words_and_name_marks_that_the_bases_never_do() -> None:
    rng = _rng()
    spoken = {word for scene in random_scenes(2000, rng) for word in scorer_caption(scene, rng).split()}
    assert spoken <= set(scorer_words())
    assert spoken >= set(LAYOUTS + EMBLEMS)
    assert not set(LAYOUTS + EMBLEMS) & set(words())
    assert set(words()) <= set(scorer_words())


def test_disturbed_pictures_stay_pictures_and_some_stay_as_they_were() -> None:
    images = render_pool(random_scenes(200, _rng())).images.float() / 255
    found, _ = disturbed(images, torch.Generator().manual_seed(0))
    again, _ = disturbed(images, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)
    assert found.amin() >= 0
    assert found.amax() <= 1
    same = (found == images).flatten(1).all(dim=1).float().mean().item()
    assert same == pytest.approx(0.4, abs=0.12)


def test_the_grid_moves_a_mask_with_its_picture() -> None:
    images = torch.zeros(50, 3, 32, 32)
    images[:, :, 8:24, 8:24] = 1
    found, grid = disturbed(images, torch.Generator().manual_seed(0))
    mask = moved(images[:, :1], grid)[:, 0].round()
    bright = (found.mean(dim=1) > 0.5).float()
    assert (mask != images[:, 0]).flatten(1).any(dim=1).float().mean() > 0.4
    assert (mask == bright).float().mean() > 0.98


def test_contrastive_loss_equals_its_slow_twin() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (normalize(torch.randn(4, 6, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    same = torch.eye(4, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    total = 0.0
    for rows, columns in ((images, texts), (texts, images)):
        for i in range(4):
            cosines = [5.0 * float(rows[i] @ columns[j]) for j in range(4)]
            log_sum = math.log(sum(math.exp(c) for c in cosines))
            wanted = [j for j in range(4) if same[i, j]]
            total -= sum(cosines[j] - log_sum for j in wanted) / len(wanted) / 8
    found = contrastive_loss(images.float(), texts.float(), torch.tensor(5.0), same)
    torch.testing.assert_close(found, torch.tensor(total, dtype=torch.float32))


def test_mask_loss_is_zero_for_certainty_and_its_gradient_mends_errors() -> None:
    goal = torch.zeros(2, 8, 8)
    goal[:, 2:6, 2:6] = 1
    torch.testing.assert_close(mask_loss(40 * (2 * goal - 1), goal), torch.tensor(0.0))
    logits = torch.zeros(2, 8, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(mask_loss(logits, goal), logits)
    assert (slope[goal == 1] < 0).all()
    assert (slope[goal == 0] > 0).all()


def test_attribute_loss_by_hand_counts_the_emblem_twice() -> None:
    logits = {"class_word": torch.zeros(3, 4), "emblem": torch.zeros(3, 2)}
    goals = {"class_word": torch.tensor([0, 1, 2]), "emblem": torch.tensor([0, 1, 1])}
    torch.testing.assert_close(attribute_loss(logits, goals), torch.tensor(math.log(4) + 2 * math.log(2)))
