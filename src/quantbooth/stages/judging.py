"""Training the toy world's judges under Lightning: one thin module per judge, and one call that does it all."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from quantbooth.data.draws import generator_for, step_loader
from quantbooth.toyworld.judge_files import halve_
from quantbooth.toyworld.judge_pools import ScenePool, pictures
from quantbooth.toyworld.judge_training import attribute_loss, contrastive_loss, disturbed, mask_loss, moved
from quantbooth.toyworld.judge_truth import answers, scorer_caption
from quantbooth.toyworld.judges import Oracle, ToyLocator, ToyScorer

__all__ = ["JudgeTraining", "LocatorTraining", "OracleTraining", "Recipe", "ScorerTraining"]

LARGEST_SCALE = 100.0


@dataclass(frozen=True)
class Recipe:
    """How a judge learns: scenes rendered, optimizer steps, scenes in each, peak learning rate."""

    scenes: int
    steps: int
    batch: int
    rate: float


class JudgeTraining(LightningModule, ABC):
    """What the three share: rows of a pool drawn by (seed, step), AdamW, one cycle of the learning rate."""

    def __init__(self, judge: nn.Module, pool: ScenePool, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.judge = judge.to(memory_format=torch.channels_last)
        self.pool, self.recipe, self.seed = pool, recipe, seed

    def rows(self, generator: torch.Generator) -> Int64[Tensor, "b"]:
        """Which rows of the pool make a batch."""
        return torch.randint(len(self.pool.scenes), (self.recipe.batch,), generator=generator)

    @abstractmethod
    def loss(self, rows: Int64[Tensor, "b"], generator: torch.Generator) -> Float[Tensor, ""]:
        """The loss of these rows of the pool."""

    def training_step(self, step: int) -> Tensor:
        generator = generator_for(self.seed, step, type(self).__name__)
        loss = self.loss(self.rows(generator), generator)
        self.log("loss", loss, prog_bar=True)
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
    """Pictures and their captions are to find each other; sentences that are equal share their pictures."""

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
    """The object's pixels are to be marked."""

    judge: ToyLocator

    def loss(self, rows: Int64[Tensor, "b"], generator: torch.Generator) -> Float[Tensor, ""]:
        images, grid = disturbed(pictures(self.pool, rows), generator)
        goal = moved(self.pool.masks[rows][:, None].float(), grid)[:, 0].round()
        return mask_loss(self.judge.logits(images), goal)


class OracleTraining(JudgeTraining):
    """Every attribute is to be named."""

    judge: Oracle

    def loss(self, rows: Int64[Tensor, "b"], generator: torch.Generator) -> Float[Tensor, ""]:
        images, _ = disturbed(pictures(self.pool, rows), generator)
        goals = answers(self.pool.scenes[row] for row in rows.tolist())
        return attribute_loss(self.judge.logits(images), goals)


def fit(training: JudgeTraining, progress: bool = True) -> None:
    """Train the judge, then round its weights to those that will be stored and freeze it."""
    trainer = Trainer(
        accelerator="cpu",
        max_steps=training.recipe.steps,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
    )
    trainer.fit(training, step_loader(training.recipe.steps))
    halve_(training.judge)
    training.judge.requires_grad_(False).eval()
