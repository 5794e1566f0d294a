"""The judges as shipped: sizes, scenes, steps, seeds; one call trains one judge and measures it on held-out scenes."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from quantbooth.stages.judging import LocatorTraining, OracleTraining, Recipe, ScorerTraining, fit
from quantbooth.toyworld.judge_figures import locator_figures, oracle_figures, scorer_figures
from quantbooth.toyworld.judge_pools import (
    ScenePool,
    independent_scenes,
    random_scenes,
    render_pool,
    subject_scenes,
)
from quantbooth.toyworld.judge_truth import ORACLE_NAMES, scorer_words
from quantbooth.toyworld.judges import Oracle, ToyLocator, ToyScorer

__all__ = ["LOCATOR", "ORACLE", "SCORER", "train_locator", "train_oracle", "train_scorer"]

WIDTHS = (24, 48, 96, 160)
LOCATOR_WIDTHS = (12, 24, 48, 64)
HELD_OUT = 2_000
SCORER = Recipe(scenes=32_000, steps=600, batch=128, rate=2e-3)
LOCATOR = Recipe(scenes=16_000, steps=400, batch=64, rate=5e-3)
ORACLE = Recipe(scenes=48_000, steps=1200, batch=128, rate=4e-3)

Figures = dict[str, float]
J = TypeVar("J", bound=nn.Module)


def train_scorer(
    seed: int, recipe: Recipe = SCORER, held_out: int = HELD_OUT, progress: bool = True
) -> tuple[ToyScorer, Figures]:
    """The scorer: taught on scenes and captions of the pre-training distribution, measured on others of it."""
    rng = _rng(seed, "scorer")
    scorer = _new(seed, lambda: ToyScorer(scorer_words(), WIDTHS, features=128, length=28))
    fit(ScorerTraining(scorer, render_pool(random_scenes(recipe.scenes, rng)), recipe, seed), progress)
    return scorer, scorer_figures(scorer, unseen(held_out, seed), rng)


def train_locator(
    seed: int, recipe: Recipe = LOCATOR, held_out: int = HELD_OUT, progress: bool = True
) -> tuple[ToyLocator, Figures]:
    """The locator: taught on scenes of the pre-training distribution, measured on others and on the subjects."""
    locator = _new(seed, lambda: ToyLocator(LOCATOR_WIDTHS, least=24))
    pool = render_pool(random_scenes(recipe.scenes, _rng(seed, "locator")))
    fit(LocatorTraining(locator, pool, recipe, seed), progress)
    return locator, _both(lambda test: locator_figures(locator, test), held_out, seed)


def train_oracle(
    seed: int, recipe: Recipe = ORACLE, held_out: int = HELD_OUT, progress: bool = True
) -> tuple[Oracle, Figures]:
    """The oracle: taught on scenes of independent attributes, measured on random ones and on the subjects."""
    oracle = _new(seed, lambda: Oracle(ORACLE_NAMES, WIDTHS))
    pool = render_pool(independent_scenes(recipe.scenes, _rng(seed, "oracle")))
    fit(OracleTraining(oracle, pool, recipe, seed), progress)
    return oracle, _both(lambda test: oracle_figures(oracle, test), held_out, seed)


def unseen(count: int, seed: int) -> ScenePool:
    """Random scenes under a stream of their own."""
    return render_pool(random_scenes(count, _rng(seed, "held out")))


def _both(measure: Callable[[ScenePool], Figures], held_out: int, seed: int) -> Figures:
    """Figures on random scenes under their own names, figures on the personal subjects after `subjects_`."""
    subjects = measure(render_pool(subject_scenes()))
    return measure(unseen(held_out, seed)) | {f"subjects_{name}": value for name, value in subjects.items()}


def _rng(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([seed, *purpose.encode()])


def _new(seed: int, make: Callable[[], J]) -> J:
    """A network whose random weights the seed alone decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
