"""How the judges are taught, in pure functions: pictures disturbed as a diffusion model might, and the losses."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import affine_grid, binary_cross_entropy_with_logits, conv2d, cross_entropy, grid_sample, pad

__all__ = ["attribute_loss", "contrastive_loss", "disturbed", "mask_loss", "moved", "roughened", "shaken"]

CLEAN = 0.4
SHIFT = 2 / 32
ZOOM = 0.08


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
    images: Float[Tensor, "b d"], texts: Float[Tensor, "b d"], scale: Float[Tensor, ""], true: Bool[Tensor, "b b"]
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy of scaled cosines; all captions true of a picture share its probability, and vice versa.

        L = (CE(scale * images texts^T, P) + CE(scale * texts images^T, Q)) / 2
        P = true / row sums,  Q = true^T / row sums

    Source: CLIP (Radford et al. 2021), figure 3, with the shared targets of UniCL (Yang et al. 2022).
    """
    logits = scale * images @ texts.T
    goals = [table.float() / table.sum(dim=1, keepdim=True) for table in (true, true.T)]
    return (cross_entropy(logits, goals[0]) + cross_entropy(logits.T, goals[1])) / 2


def mask_loss(logits: Float[Tensor, "b h w"], goal: Float[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Cross-entropy per pixel plus one minus the soft Dice overlap per picture (Milletari et al. 2016)."""
    chance = logits.sigmoid()
    overlap = 2 * (chance * goal).sum((1, 2)) / (chance + goal).sum((1, 2)).clamp(min=1)
    return binary_cross_entropy_with_logits(logits, goal) + (1 - overlap).mean()


def attribute_loss(
    logits: Mapping[str, Float[Tensor, "b _n"]], goals: Mapping[str, Int64[Tensor, "b"]]
) -> Float[Tensor, ""]:
    """Sum over attributes of the cross-entropy; the emblem, smallest of all, counts twice."""
    losses = {name: cross_entropy(logits[name], goal) for name, goal in goals.items()}
    return torch.stack(list(losses.values())).sum() + losses["emblem"]
