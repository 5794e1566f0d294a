"""Recipes of the shipped judges: one function trains each judge and measures it on held-out scenes."""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from quantbooth.evaluation.locators import box_overlap, boxes_of_masks, mask_overlap
from quantbooth_toyworld.judge_data import (
    ORACLE_NAMES,
    ScenePool,
    answers,
    full_caption,
    independent_scenes,
    pictures,
    random_scenes,
    render_pool,
    scorer_words,
    subject_scenes,
)
from quantbooth_toyworld.judge_training import LocatorTraining, OracleTraining, Recipe, ScorerTraining, fit
from quantbooth_toyworld.judges import Oracle, ToyLocator, ToyScorer
from quantbooth_toyworld.world import PATTERNS, Scene

__all__ = [
    "LOCATOR",
    "ORACLE",
    "SCORER",
    "distinct_groups",
    "locator_figures",
    "oracle_figures",
    "scorer_figures",
    "train_locator",
    "train_oracle",
    "train_scorer",
]

GROUP = 100
CHUNK = 256


@runtime_checkable
class Names(Protocol):
    """The interface of an oracle."""

    def probabilities(self, pictures: Float[Tensor, "b 3 h w"]) -> Mapping[str, Float[Tensor, "b _n"]]: ...


@runtime_checkable
class Finds(Protocol):
    """The interface of a locator."""

    least: int

    def masks(self, pictures: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, "b h w"]: ...


@torch.inference_mode()
def scorer_figures(scorer: ToyScorer, pool: ScenePool, rng: np.random.Generator) -> dict[str, float]:
    """Return top-1 retrieval among 100 different full captions, and the mean cosines of matches and mismatches."""
    found: dict[str, list[float]] = {"retrieval_top1_of_100": [], "cosine_matched": [], "cosine_mismatched": []}
    for rows in distinct_groups(pool.scenes):
        images = scorer.images(pictures(pool, rows))
        texts = scorer.texts([full_caption(pool.scenes[row], rng).text for row in rows.tolist()])
        cosines, own = images @ texts.T, torch.arange(GROUP)
        found["retrieval_top1_of_100"].append((cosines.argmax(1) == own).float().mean().item())
        found["cosine_matched"].append(cosines.diagonal().mean().item())
        found["cosine_mismatched"].append(cosines[~torch.eye(GROUP, dtype=torch.bool)].mean().item())
    return {name: float(np.mean(values)) for name, values in found.items()}


def distinct_groups(scenes: tuple[Scene, ...]) -> list[Int64[Tensor, "100"]]:
    """Return rows in groups of 100 scenes with distinct full captions; an incomplete group is left out."""
    groups: list[dict[tuple[str | None, ...], int]] = [{}]
    for row, scene in enumerate(scenes):
        named = (scene.pattern, scene.second) if scene.pattern in PATTERNS[1:] else (None, None)
        groups[-1].setdefault((scene.class_word, scene.colour, scene.context, scene.accessory, *named), row)
        if len(groups[-1]) == GROUP:
            groups.append({})
    return [torch.tensor(list(group.values())) for group in groups if len(group) == GROUP]


@torch.inference_mode()
def locator_figures(locator: Finds, pool: ScenePool) -> dict[str, float]:
    """Return the mean IoU of found and true masks and of their boxes, and the share of pictures with a find."""
    masks = torch.cat([locator.masks(part) for part in pictures(pool, slice(None)).split(CHUNK)])
    found, true = boxes_of_masks(masks, locator.least), boxes_of_masks(pool.masks, locator.least)
    return {
        "mask_iou": mask_overlap(masks, pool.masks).mean().item(),
        "box_iou": box_overlap(found.xyxy, true.xyxy).mean().item(),
        "found": found.found.float().mean().item(),
    }


@torch.inference_mode()
def oracle_figures(oracle: Names, pool: ScenePool) -> dict[str, float]:
    """Return the accuracy per attribute, the recall of emblems, and the false positives on pictures without one."""
    parts = [oracle.probabilities(part) for part in pictures(pool, slice(None)).split(CHUNK)]
    goals = answers(pool.scenes)
    chosen = {name: torch.cat([part[name] for part in parts]).argmax(dim=1) for name in goals}
    figures = {name: (chosen[name] == goal).float().mean().item() for name, goal in goals.items()}
    there = goals["emblem"] > 0
    figures["emblem_recall"] = (chosen["emblem"] == goals["emblem"])[there].float().mean().item()
    if not there.all():
        figures["emblem_false_positives"] = (chosen["emblem"][~there] > 0).float().mean().item()
    return figures


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
    """Train the scorer on scenes and captions of the pre-training distribution, and measure it on held-out ones."""
    rng = _rng(seed, "scorer")
    scorer = _new(seed, lambda: ToyScorer(scorer_words(), WIDTHS, features=128, length=28))
    fit(ScorerTraining(scorer, render_pool(random_scenes(recipe.scenes, rng)), recipe, seed), progress)
    return scorer, scorer_figures(scorer, unseen(held_out, seed), rng)


def train_locator(
    seed: int, recipe: Recipe = LOCATOR, held_out: int = HELD_OUT, progress: bool = True
) -> tuple[ToyLocator, Figures]:
    """Train the locator on scenes of the pre-training distribution, and measure it on others and on the subjects."""
    locator = _new(seed, lambda: ToyLocator(LOCATOR_WIDTHS, least=24))
    pool = render_pool(random_scenes(recipe.scenes, _rng(seed, "locator")))
    fit(LocatorTraining(locator, pool, recipe, seed), progress)
    return locator, _both(lambda test: locator_figures(locator, test), held_out, seed)


def train_oracle(
    seed: int, recipe: Recipe = ORACLE, held_out: int = HELD_OUT, progress: bool = True
) -> tuple[Oracle, Figures]:
    """Train the oracle on scenes with independent attributes, and measure it on random ones and on the subjects."""
    oracle = _new(seed, lambda: Oracle(ORACLE_NAMES, WIDTHS))
    pool = render_pool(independent_scenes(recipe.scenes, _rng(seed, "oracle")))
    fit(OracleTraining(oracle, pool, recipe, seed), progress)
    return oracle, _both(lambda test: oracle_figures(oracle, test), held_out, seed)


def unseen(count: int, seed: int) -> ScenePool:
    """Render held-out random scenes, from a separate random stream."""
    return render_pool(random_scenes(count, _rng(seed, "held out")))


def _both(measure: Callable[[ScenePool], Figures], held_out: int, seed: int) -> Figures:
    """Return figures on random scenes, and on the personal subjects with the prefix `subjects_`."""
    subjects = measure(render_pool(subject_scenes()))
    return measure(unseen(held_out, seed)) | {f"subjects_{name}": value for name, value in subjects.items()}


def _rng(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([seed, *purpose.encode()])


def _new(seed: int, make: Callable[[], J]) -> J:
    """Return a network whose random weights depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
