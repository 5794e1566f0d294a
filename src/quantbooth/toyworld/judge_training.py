"""What the judges are taught: captions, right answers, roughened pictures, losses. All of it is pure functions."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import affine_grid, binary_cross_entropy_with_logits, conv2d, cross_entropy, grid_sample, pad

from quantbooth.toyworld.captions import describe, words
from quantbooth.toyworld.world import ACCESSORIES, CLASSES, COLOURS, CONTEXTS, EMBLEMS, LAYOUTS, PATTERNS, Scene

__all__ = [
    "NONE",
    "ORACLE_NAMES",
    "answers",
    "attribute_loss",
    "contrastive_loss",
    "disturbed",
    "full_caption",
    "mask_loss",
    "moved",
    "roughened",
    "scorer_caption",
    "scorer_words",
    "seen",
    "shaken",
]

NONE = "none"
ORACLE_NAMES: dict[str, tuple[str, ...]] = {
    "class_word": CLASSES,
    "context": CONTEXTS,
    "accessory": (NONE, *ACCESSORIES),
    "colour": COLOURS,
    "second": (NONE, *COLOURS),
    "pattern": PATTERNS + LAYOUTS,
    "emblem": (NONE, *EMBLEMS),
}
HALF = 0.5
CLEAN = 0.4
SHIFT = 2 / 32
ZOOM = 0.08


def seen(scene: Scene) -> dict[str, str]:
    """What can be seen of a scene, by the oracle's names: a plain body shows no second colour."""
    found = {attribute: getattr(scene, attribute) or NONE for attribute in ORACLE_NAMES}
    return found | {"second": NONE} if scene.pattern == "plain" else found


def answers(scenes: Iterable[Scene]) -> dict[str, Int64[Tensor, "b"]]:
    """The oracle's right answers, as places in its names."""
    rows = [seen(scene) for scene in scenes]
    return {name: torch.tensor([found.index(row[name]) for row in rows]) for name, found in ORACLE_NAMES.items()}


def full_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption that names everything about the scene that captions can name."""
    wanted = {"colour", "context"} | ({"pattern", "second"} if scene.pattern in PATTERNS[1:] else set())
    wanted |= {"accessory"} if scene.accessory is not None else set()
    while True:
        found = describe(scene, rng)
        if found.named >= wanted:
            return found.text


def scorer_caption(scene: Scene, rng: np.random.Generator) -> str:
    """What the scorer reads: every second caption is full, and every second emblem and layout is named.

    The base's captions never name the latter two. A published CLIP has read of hearts and halves although no prompt
    about a subject mentions them; a scorer that had not would be blind to what makes a subject this one.
    """
    text = full_caption(scene, rng) if rng.random() < HALF else describe(scene, rng).text
    if scene.pattern in LAYOUTS and rng.random() < HALF:
        text += f" parted {scene.pattern} {scene.second}"
    if scene.emblem is not None and rng.random() < HALF:
        text += f" marked {scene.emblem}"
    return text


def scorer_words() -> tuple[str, ...]:
    """Every word the scorer knows: those of captions and prompts, and of the marks."""
    return tuple(sorted({*words(), "parted", "marked", *LAYOUTS, *EMBLEMS}))


def disturbed(
    images: Float[Tensor, "b 3 32 32"], generator: torch.Generator
) -> tuple[Float[Tensor, "b 3 32 32"], Float[Tensor, "b 32 32 2"]]:
    """Pictures as a judge is shown them: two of five as rendered, the rest moved and roughened; and the grids used."""
    clean = torch.rand(len(images), 1, 1, 1, generator=generator) < CLEAN
    grid = torch.where(clean, _still(len(images)), shaken(len(images), generator))
    return torch.where(clean, images, roughened(moved(images, grid), generator)), grid


def shaken(count: int, generator: torch.Generator) -> Float[Tensor, "b 32 32 2"]:
    """Sampling grids that move pictures by up to 2 pixels and zoom by up to 8 %."""
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 + ZOOM * (2 * torch.rand(count, generator=generator) - 1)
    theta[:, :, 2] = 2 * SHIFT * (2 * torch.rand(count, 2, generator=generator) - 1)
    return affine_grid(theta, [count, 1, 32, 32], align_corners=False)


def _still(count: int) -> Float[Tensor, "b 32 32 2"]:
    return affine_grid(torch.eye(2, 3).expand(count, 2, 3), [count, 1, 32, 32], align_corners=False)


def moved(planes: Float[Tensor, "b c 32 32"], grid: Float[Tensor, "b 32 32 2"]) -> Float[Tensor, "b c 32 32"]:
    """Planes sampled along a grid; their borders are repeated outwards."""
    return grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)


def roughened(images: Float[Tensor, "b 3 32 32"], generator: torch.Generator) -> Float[Tensor, "b 3 32 32"]:
    """What a diffusion model may do to a picture: soften it, change contrast, brightness and tint, add grain."""

    def each(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(len(images), channels, 1, 1, generator=generator)

    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).repeat(3, 1, 1, 1)
    soft = conv2d(pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    images = torch.lerp(images, soft, each(-0.2, 1.0).clamp(min=0))
    images = (images - 0.5) * each(0.85, 1.15) + 0.5 + each(-0.08, 0.08) + each(-0.03, 0.03, channels=3)
    grain = torch.randn(images.shape, generator=generator) * each(-0.02, 0.06).clamp(min=0)
    return (images + grain).clamp(0, 1)


def contrastive_loss(
    images: Float[Tensor, "b d"], texts: Float[Tensor, "b d"], scale: Float[Tensor, ""], same: Bool[Tensor, "b b"]
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy of scaled cosines; captions that say the same share their pictures' probability.

        L = (CE(scale * images texts^T, P) + CE(scale * texts images^T, P)) / 2,  P = same / row sums

    Source: CLIP (Radford et al. 2021), figure 3, with the shared targets of UniCL (Yang et al. 2022).
    """
    logits = scale * images @ texts.T
    goal = same.float() / same.sum(dim=1, keepdim=True)
    return (cross_entropy(logits, goal) + cross_entropy(logits.T, goal)) / 2


def mask_loss(logits: Float[Tensor, "b h w"], goal: Float[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Cross-entropy per pixel plus one minus the soft Dice overlap per picture (Milletari et al. 2016)."""
    chance = logits.sigmoid()
    overlap = 2 * (chance * goal).sum((1, 2)) / (chance + goal).sum((1, 2)).clamp(min=1)
    return binary_cross_entropy_with_logits(logits, goal) + (1 - overlap).mean()


def attribute_loss(
    logits: Mapping[str, Float[Tensor, "b n"]], goals: Mapping[str, Int64[Tensor, "b"]]
) -> Float[Tensor, ""]:
    """Sum over attributes of the cross-entropy; the emblem, smallest of all, counts twice."""
    losses = {name: cross_entropy(logits[name], goal) for name, goal in goals.items()}
    return torch.stack(list(losses.values())).sum() + losses["emblem"]
