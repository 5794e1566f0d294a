"""How good the judges are on held-out scenes: the figures of their model card."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from quantbooth.metrics.locators import box_overlap, boxes_of_masks, mask_overlap
from quantbooth.toyworld.judge_pools import ScenePool, pictures
from quantbooth.toyworld.judge_truth import answers, full_caption
from quantbooth.toyworld.judges import ToyScorer
from quantbooth.toyworld.world import PATTERNS, Scene

__all__ = ["distinct_groups", "locator_figures", "oracle_figures", "scorer_figures"]

GROUP = 100
CHUNK = 256


@runtime_checkable
class Names(Protocol):
    """What an oracle does here."""

    def probabilities(self, pictures: Float[Tensor, "b 3 h w"]) -> Mapping[str, Float[Tensor, "b _n"]]: ...


@runtime_checkable
class Finds(Protocol):
    """What a locator has and does here."""

    least: int

    def masks(self, pictures: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, "b h w"]: ...


@torch.inference_mode()
def scorer_figures(scorer: ToyScorer, pool: ScenePool, rng: np.random.Generator) -> dict[str, float]:
    """Pictures assigned to their own among 100 full captions that all differ, and how far matches stand out."""
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
    """Rows in groups of 100 scenes, no two of which share everything that captions can name; a rest is left out."""
    groups: list[dict[tuple[str | None, ...], int]] = [{}]
    for row, scene in enumerate(scenes):
        named = (scene.pattern, scene.second) if scene.pattern in PATTERNS[1:] else (None, None)
        groups[-1].setdefault((scene.class_word, scene.colour, scene.context, scene.accessory, *named), row)
        if len(groups[-1]) == GROUP:
            groups.append({})
    return [torch.tensor(list(group.values())) for group in groups if len(group) == GROUP]


@torch.inference_mode()
def locator_figures(locator: Finds, pool: ScenePool) -> dict[str, float]:
    """Mean overlap of found and true masks and of their square boxes, and the share of pictures with a find."""
    masks = torch.cat([locator.masks(part) for part in pictures(pool, slice(None)).split(CHUNK)])
    found, true = boxes_of_masks(masks, locator.least), boxes_of_masks(pool.masks, locator.least)
    return {
        "mask_iou": mask_overlap(masks, pool.masks).mean().item(),
        "box_iou": box_overlap(found.xyxy, true.xyxy).mean().item(),
        "found": found.found.float().mean().item(),
    }


@torch.inference_mode()
def oracle_figures(oracle: Names, pool: ScenePool) -> dict[str, float]:
    """Accuracy per attribute; emblems named right of those there; emblems seen in pictures without one."""
    parts = [oracle.probabilities(part) for part in pictures(pool, slice(None)).split(CHUNK)]
    goals = answers(pool.scenes)
    chosen = {name: torch.cat([part[name] for part in parts]).argmax(dim=1) for name in goals}
    figures = {name: (chosen[name] == goal).float().mean().item() for name, goal in goals.items()}
    there = goals["emblem"] > 0
    figures["emblem_recall"] = (chosen["emblem"] == goals["emblem"])[there].float().mean().item()
    if not there.all():
        figures["emblem_false_positives"] = (chosen["emblem"][~there] > 0).float().mean().item()
    return figures
