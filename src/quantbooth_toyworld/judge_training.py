"""Training of the judges: augmentations and losses as pure functions, and one LightningModule per judge."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import affine_grid, binary_cross_entropy_with_logits, conv2d, cross_entropy, grid_sample, pad

from quantbooth.runtime.draws import generator_for, step_loader
from quantbooth.runtime.lightning import Bar
from quantbooth_toyworld.judge_data import ScenePool, answers, pictures, scorer_caption
from quantbooth_toyworld.judges import Oracle, ToyLocator, ToyScorer
from quantbooth_toyworld.shipped import halve_

__all__ = [
    "JudgeTraining",
    "LocatorTraining",
    "OracleTraining",
    "Recipe",
    "ScorerTraining",
    "attribute_loss",
    "contrastive_loss",
    "disturbed",
    "mask_loss",
    "moved",
    "roughened",
    "shaken",
]

CLEAN = 0.4
SHIFT = 2 / 32
ZOOM = 0.08


def disturbed(
    images: Float[Tensor, "b 3 32 32"], generator: torch.Generator
) -> tuple[Float[Tensor, "b 3 32 32"], Float[Tensor, "b 32 32 2"]]:
    """Augment pictures: 40 % unchanged, the rest moved and degraded; return them with their sampling grids."""
    clean = torch.rand(len(images), 1, 1, 1, generator=generator) < CLEAN
    grid = torch.where(clean, _still(len(images)), shaken(len(images), generator))
    return torch.where(clean, images, roughened(moved(images, grid), generator)), grid


def shaken(count: int, generator: torch.Generator) -> Float[Tensor, "b 32 32 2"]:
    """Return sampling grids that move pictures by up to 2 pixels and zoom by up to 8 %."""
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 + ZOOM * (2 * torch.rand(count, generator=generator) - 1)
    theta[:, :, 2] = 2 * SHIFT * (2 * torch.rand(count, 2, generator=generator) - 1)
    return affine_grid(theta, [count, 1, 32, 32], align_corners=False)


def _still(count: int) -> Float[Tensor, "b 32 32 2"]:
    return affine_grid(torch.eye(2, 3).expand(count, 2, 3), [count, 1, 32, 32], align_corners=False)


def moved(planes: Float[Tensor, "b c 32 32"], grid: Float[Tensor, "b 32 32 2"]) -> Float[Tensor, "b c 32 32"]:
    """Sample planes on a grid, with repeated borders."""
    return grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)


def roughened(images: Float[Tensor, "b 3 32 32"], generator: torch.Generator) -> Float[Tensor, "b 3 32 32"]:
    """Degrade pictures as a diffusion model may: blur, changes of contrast, brightness and tint, noise."""

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
    """Return the symmetric cross-entropy of scaled cosines; all captions true of a picture share its probability.

        L = (CE(scale * images texts^T, P) + CE(scale * texts images^T, Q)) / 2
        P = true / row sums,  Q = true^T / row sums

    Source: CLIP (Radford et al. 2021), figure 3, with the shared targets of UniCL (Yang et al. 2022).
    """
    logits = scale * images @ texts.T
    goals = [table.float() / table.sum(dim=1, keepdim=True) for table in (true, true.T)]
    return (cross_entropy(logits, goals[0]) + cross_entropy(logits.T, goals[1])) / 2


def mask_loss(logits: Float[Tensor, "b h w"], goal: Float[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Return the cross-entropy per pixel plus one minus the soft Dice overlap per picture (Milletari et al. 2016)."""
    chance = logits.sigmoid()
    overlap = 2 * (chance * goal).sum((1, 2)) / (chance + goal).sum((1, 2)).clamp(min=1)
    return binary_cross_entropy_with_logits(logits, goal) + (1 - overlap).mean()


def attribute_loss(
    logits: Mapping[str, Float[Tensor, "b _n"]], goals: Mapping[str, Int64[Tensor, "b"]]
) -> Float[Tensor, ""]:
    """Return the sum over attributes of the cross-entropy; the emblem, the smallest detail, counts twice."""
    losses = {name: cross_entropy(logits[name], goal) for name, goal in goals.items()}
    return torch.stack(list(losses.values())).sum() + losses["emblem"]


LARGEST_SCALE = 100.0


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a judge: rendered scenes, optimizer steps, batch size, peak learning rate."""

    scenes: int
    steps: int
    batch: int
    rate: float


class JudgeTraining(LightningModule, ABC):
    """Base class of the three: rows of a pool drawn by (seed, step), AdamW, one cycle of the learning rate."""

    def __init__(self, judge: nn.Module, pool: ScenePool, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.judge = judge.to(memory_format=torch.channels_last)
        self.pool, self.recipe, self.seed = pool, recipe, seed

    def rows(self, generator: torch.Generator) -> Int64[Tensor, "b"]:
        """Draw the rows of a batch."""
        return torch.randint(len(self.pool.scenes), (self.recipe.batch,), generator=generator)

    @abstractmethod
    def loss(self, rows: Int64[Tensor, "b"], generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the loss of these rows of the pool."""

    def training_step(self, step: int) -> Tensor:
        generator = generator_for(self.seed, step, type(self).__name__)
        loss = self.loss(self.rows(generator), generator)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        matrices = [parameter for parameter in self.judge.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.judge.parameters() if parameter.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.recipe.rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.recipe.rate, total_steps=self.recipe.steps, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ScorerTraining(JudgeTraining):
    """Contrastive training of the scorer; equal captions share their pictures."""

    judge: ToyScorer

    def loss(self, rows: Int64[Tensor, "b"], generator: torch.Generator) -> Float[Tensor, ""]:
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        scenes = [self.pool.scenes[row] for row in rows.tolist()]
        sentences = [scorer_caption(scene, rng).text for scene in scenes]
        same = torch.tensor([[one == other for other in sentences] for one in sentences])
        images, _ = disturbed(pictures(self.pool, rows), generator)
        texts = self.judge.texts(sentences)
        scale = self.judge.clip.logit_scale.exp().clamp(max=LARGEST_SCALE)
        return contrastive_loss(self.judge.images(images), texts, scale, same)


class LocatorTraining(JudgeTraining):
    """Training of the locator to segment the object."""

    judge: ToyLocator

    def loss(self, rows: Int64[Tensor, "b"], generator: torch.Generator) -> Float[Tensor, ""]:
        images, grid = disturbed(pictures(self.pool, rows), generator)
        goal = moved(self.pool.masks[rows][:, None].float(), grid)[:, 0].round()
        return mask_loss(self.judge.logits(images), goal)


class OracleTraining(JudgeTraining):
    """Training of the oracle to classify every attribute."""

    judge: Oracle

    def loss(self, rows: Int64[Tensor, "b"], generator: torch.Generator) -> Float[Tensor, ""]:
        images, _ = disturbed(pictures(self.pool, rows), generator)
        goals = answers(self.pool.scenes[row] for row in rows.tolist())
        return attribute_loss(self.judge.logits(images), goals)


def fit(training: JudgeTraining, progress: bool = True) -> None:
    """Train the judge, round its weights to the stored precision, and freeze it."""
    trainer = Trainer(
        accelerator="cpu",
        max_steps=training.recipe.steps,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        callbacks=[Bar("training a judge")] if progress else [],
    )
    trainer.fit(training, step_loader(training.recipe.steps))
    halve_(training.judge)
    training.judge.requires_grad_(False).eval()
