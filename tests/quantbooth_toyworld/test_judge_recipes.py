"""Held-out figures of judges that are right, or wrong on purpose."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from quantbooth_toyworld.judge_data import (
    ORACLE_NAMES,
    ScenePool,
    answers,
    random_scenes,
    render_pool,
    scorer_words,
    subject_scenes,
)
from quantbooth_toyworld.judge_recipes import distinct_groups, locator_figures, oracle_figures, scorer_figures
from quantbooth_toyworld.judges import ToyScorer
from quantbooth_toyworld.world import SUBJECTS


@pytest.fixture(scope="module")
def pool() -> ScenePool:
    return render_pool(random_scenes(250, np.random.default_rng(0)))


class Rows:
    """Answers in the order of the pool, whatever the pictures."""

    def __init__(self, pool: ScenePool) -> None:
        self.pool, self.place, self.least = pool, 0, 10

    def take(self, pictures: Tensor) -> slice:
        self.place += len(pictures)
        return slice(self.place - len(pictures), self.place)


class Truth(Rows):
    def probabilities(self, pictures: Tensor) -> dict[str, Tensor]:
        rows = self.take(pictures)
        found = answers(self.pool.scenes)
        return {name: one_hot(value[rows], len(ORACLE_NAMES[name])).float() for name, value in found.items()}

    def masks(self, pictures: Tensor) -> Tensor:
        return self.pool.masks[self.take(pictures)]


class SeesStars(Truth):
    """Right in all but the emblem, where it sees a star everywhere."""

    def probabilities(self, pictures: Tensor) -> dict[str, Tensor]:
        found = super().probabilities(pictures)
        star = torch.full((len(pictures),), ORACLE_NAMES["emblem"].index("star"))
        return found | {"emblem": one_hot(star, len(ORACLE_NAMES["emblem"])).float()}


def test_the_truth_has_perfect_figures(pool: ScenePool) -> None:
    figures = oracle_figures(Truth(pool), pool)
    assert figures.pop("emblem_false_positives") == 0
    assert set(figures.values()) == {1.0}
    assert set(locator_figures(Truth(pool), pool).values()) == {1.0}


def test_emblem_recall_and_false_positives_count_different_pictures(pool: ScenePool) -> None:
    figures = oracle_figures(SeesStars(pool), pool)
    emblems = [scene.emblem for scene in pool.scenes]
    marked = [emblem for emblem in emblems if emblem]
    assert figures["emblem_false_positives"] == 1.0
    assert figures["emblem_recall"] == pytest.approx(marked.count("star") / len(marked))
    assert figures["emblem"] == pytest.approx(emblems.count("star") / len(emblems))
    assert figures["class_word"] == 1.0


def test_groups_hold_a_hundred_scenes_that_captions_can_tell_apart(pool: ScenePool) -> None:
    groups = distinct_groups(pool.scenes)
    assert [len(group) for group in groups] == [100, 100]
    for group in groups:
        scenes = [pool.scenes[row] for row in group.tolist()]
        keys = {
            (
                s.class_word,
                s.colour,
                s.context,
                s.accessory,
                s.pattern in ("striped", "dotted", "checked") and s.pattern,
            )
            for s in scenes
        }
        assert len(keys) >= 97


def test_an_untrained_scorer_retrieves_by_chance(pool: ScenePool) -> None:
    torch.manual_seed(0)
    scorer = ToyScorer(scorer_words(), widths=(4, 8), features=8, length=28).eval()
    figures = scorer_figures(scorer, pool, np.random.default_rng(0))
    assert figures["retrieval_top1_of_100"] < 0.1
    assert figures["cosine_matched"] == pytest.approx(figures["cosine_mismatched"], abs=0.1)


def test_subject_scenes_are_all_pictures_of_all_subjects() -> None:
    assert len(subject_scenes()) == 25 * len(SUBJECTS)
