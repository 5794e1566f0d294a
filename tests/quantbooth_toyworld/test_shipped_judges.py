"""The shipped judges: accurate on held-out scenes and on the personal subjects."""

import numpy as np
import pytest
import torch

from quantbooth.evaluation.locators import box_overlap, boxes_of_masks
from quantbooth_toyworld.judge_data import (
    ORACLE_NAMES,
    ScenePool,
    pictures,
    random_scenes,
    render_pool,
    scorer_words,
    subject_scenes,
)
from quantbooth_toyworld.judge_recipes import locator_figures, oracle_figures, scorer_figures
from quantbooth_toyworld.judges import load_locator, load_oracle, load_scorer
from quantbooth_toyworld.shipped import judges_folder


@pytest.fixture(scope="module")
def unseen() -> ScenePool:
    return render_pool(random_scenes(600, np.random.default_rng(20_240)))


@pytest.fixture(scope="module")
def subjects() -> ScenePool:
    return render_pool(subject_scenes())


def test_scorer_finds_a_pictures_own_caption_among_a_hundred(unseen: ScenePool) -> None:
    figures = scorer_figures(load_scorer(judges_folder()), unseen, np.random.default_rng(0))
    assert figures["retrieval_top1_of_100"] >= 0.9
    assert figures["cosine_matched"] - figures["cosine_mismatched"] > 0.5


def test_locator_marks_the_object(unseen: ScenePool, subjects: ScenePool) -> None:
    locator = load_locator(judges_folder())
    for pool in (unseen, subjects):
        figures = locator_figures(locator, pool)
        assert figures["mask_iou"] >= 0.9
        assert figures["box_iou"] >= 0.9
        assert figures["found"] == 1


def test_locator_boxes_survive_a_little_grain(subjects: ScenePool) -> None:
    images = pictures(subjects, slice(0, 50))
    grain = 0.04 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    found = load_locator(judges_folder()).boxes((images + grain).clamp(0, 1), "mug")
    true = boxes_of_masks(subjects.masks[:50], least=1)
    assert box_overlap(found.xyxy, true.xyxy).mean() > 0.9


def test_oracle_names_every_attribute(unseen: ScenePool, subjects: ScenePool) -> None:
    oracle = load_oracle(judges_folder())
    assert oracle.names == ORACLE_NAMES
    figures = oracle_figures(oracle, unseen)
    assert figures.pop("emblem_false_positives") <= 0.02
    assert min(figures.values()) >= 0.95, figures
    assert min(oracle_figures(oracle, subjects).values()) >= 0.95


def test_scorer_knows_every_word_a_caption_or_prompt_can_hold() -> None:
    assert set(scorer_words()) <= set(load_scorer(judges_folder()).config["words"])


def test_the_three_together_are_small() -> None:
    assert sum(file.stat().st_size for file in judges_folder().glob("*.safetensors")) <= 6_000_000
