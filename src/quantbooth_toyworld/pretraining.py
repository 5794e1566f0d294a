"""Pre-training of the toy bases: a pool of scenes, the autoencoder's decoder, then denoiser and text encoders jointly.

Picture i of a pool depends on (seed, i) only, and a finished pool is cached on disk. Training runs save a checkpoint
every few minutes and resume from it; they end on averaged weights.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.diffusers_folder import text_encoder_names
from quantbooth.diffusion.objective import denoising_error
from quantbooth.runtime.draws import generator_for, step_loader
from quantbooth.runtime.lightning import Bar
from quantbooth.runtime.progress import progress
from quantbooth_toyworld.captions import caption
from quantbooth_toyworld.scenes import random_scene, render
from quantbooth_toyworld.world import Scene

__all__ = ["BaseTraining", "DecoderTraining", "Pool", "Recipe", "Weighting", "fit_resumably", "render_pool"]

WITNESSES = 64


@dataclass(frozen=True)
class Pool:
    """Rendered pictures with their masks and scenes."""

    images: UInt8[Tensor, "n 3 h w"]
    masks: UInt8[Tensor, "n h w"]
    scenes: tuple[Scene, ...]

    def __len__(self) -> int:
        return len(self.scenes)


class _Renders(Dataset[tuple[Tensor, Tensor]]):
    """A map-style dataset that renders scenes on access, in worker processes."""

    def __init__(self, scenes: tuple[Scene, ...]) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rendered = render(self.scenes[index])
        image = torch.from_numpy(np.ascontiguousarray(rendered.image.transpose(2, 0, 1)))
        return image, torch.from_numpy(rendered.mask.astype(np.uint8))


def scenes_of(count: int, seed: int) -> tuple[Scene, ...]:
    """Draw scenes 0 .. count - 1 of the pre-training distribution, without the personal subjects' combinations."""
    return tuple(random_scene(np.random.default_rng([seed, index])) for index in range(count))


def render_pool(count: int, seed: int, cache: Path | None = None, workers: int = 2) -> Pool:
    """Render a pool, or read it from the cache file if that has this seed, size and renderer."""
    scenes = scenes_of(count, seed)
    if cache is not None and cache.is_file():
        stored = load_file(cache)
        if stored["images"].shape[0] == count and int(stored["seed"]) == seed and _of_this_world(stored, scenes):
            return Pool(stored["images"], stored["masks"], scenes)
    loader = DataLoader(_Renders(scenes), batch_size=500, num_workers=workers)
    batches = list(progress(loader, f"rendering {count} scenes"))
    images, masks = (torch.cat(part) for part in zip(*batches, strict=True))
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(".partial")
        save_file({"images": images, "masks": masks, "seed": torch.tensor(seed)}, partial)
        partial.replace(cache)
    return Pool(images, masks, scenes)


def _of_this_world(stored: dict[str, Tensor], scenes: tuple[Scene, ...]) -> bool:
    """Return whether the first pictures of a stored pool equal those of the current renderer."""
    fresh = _Renders(scenes[:WITNESSES])
    return all(torch.equal(fresh[i][0], stored["images"][i]) for i in range(len(fresh)))


LAST = "last.ckpt"


def fit_resumably(
    module: LightningModule,
    steps: int,
    folder: Path,
    average_from: int,
    callbacks: Sequence[Callback] = (),
    precision: Any = "32-true",
) -> None:
    """Train to the given step, from the newest checkpoint in the folder, if any; end on averaged weights.

    Draws depend on (seed, step) only, so a resumed run gives the same result.
    """
    checkpoint = ModelCheckpoint(folder, save_last=True, save_top_k=1, train_time_interval=timedelta(minutes=2))
    average = EMAWeightAveraging(decay=0.998, update_starting_at_step=average_from)
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="auto",
        devices=1,
        precision=precision,
        logger=False,
        gradient_clip_val=1.0,
        enable_model_summary=False,
        callbacks=[checkpoint, average, Bar(f"training {folder.name}"), *callbacks],
    )
    last = folder / LAST
    trainer.fit(module, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    trainer.save_checkpoint(last)


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training run; draws depend on (seed, step) only, so a resumed run gives the same result.

    Attributes:
        steps: optimizer steps.
        batch: pictures in each.
        learning_rate: of AdamW, after ``warmup`` steps; constant to the share ``hold`` of the run, then a cosine down
            to 3 %.
        warmup: steps of linear rise.
        hold: 0.5 for a run from scratch; 0 for a further round on trained weights.
        seed: decides initial weights, pictures, captions, noise and timesteps.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int
    hold: float
    seed: int

    def rate_at(self, step: int) -> float:
        """Return the factor of the learning rate at a step."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        turn = min(1.0, max(0.0, (step / self.steps - self.hold) / (1 - self.hold)))
        return 0.03 + 0.97 * 0.5 * (1 + float(np.cos(np.pi * turn)))


class _Training(LightningModule):
    """Base class of both: AdamW, the learning rate schedule, a loader of steps."""

    recipe: Recipe
    trained: torch.nn.Module

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.trained.parameters(), lr=self.recipe.learning_rate, weight_decay=1e-3)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.recipe.rate_at(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def train_dataloader(self) -> object:
        return step_loader(self.recipe.steps)

    def draw(self, purpose: str) -> torch.Generator:
        return generator_for(self.recipe.seed, self.global_step, purpose)


class DecoderTraining(_Training):
    """Training of an autoencoder's decoder for its fixed encoder: mean absolute plus mean squared error of pictures."""

    def __init__(self, base: Base, pool: Pool, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.autoencoder = base.autoencoder
        self.trained = base.autoencoder.decoder
        self.pictures = pool.images

    def training_step(self, _step: int) -> Tensor:
        rows = torch.randint(len(self.pictures), (self.recipe.batch,), generator=self.draw("decoder"))
        images = self.pictures[rows].to(self.device).float() / 127.5 - 1
        with torch.no_grad():
            latents = self.autoencoder.encode(images).latents
        difference = self.autoencoder.decode(latents).sample - images
        self.log("pretrain/psnr_db", 10 * torch.log10(4 / difference.detach().square().mean()))
        return difference.abs().mean() + difference.square().mean()


@dataclass(frozen=True)
class Weighting:
    """Which timesteps are drawn, and the weight of each sample's error.

    Attributes:
        focus: share of the timesteps drawn uniformly from ``decisive``; the others are uniform over all timesteps.
        decisive: interval where the content is decided.
        loss_weight_max: B of the weight min(1 / signal power, B): 1 / alpha_bar, or 1 / (1 - sigma)^2 of a flow.
    """

    focus: float = 0.0
    decisive: Sequence[int] = (150, 750)
    loss_weight_max: float = 8.0


class BaseTraining(_Training):
    """Training of denoiser and text encoders on captioned latents with the denoising loss (LDM, eq. 2; flow matching).

    Every tenth caption is emptied for guidance.
    """

    empty_share = 0.1

    def __init__(
        self,
        base: Base,
        latents: Float[Tensor, "n c h w"],
        pool: Pool,
        recipe: Recipe,
        weighting: Weighting = Weighting(),
    ) -> None:
        super().__init__()
        self.weighting = weighting
        self.recipe = recipe
        encoders = dict(zip(text_encoder_names(len(base.encoders)), base.text_encoders, strict=True))
        self.trained = torch.nn.ModuleDict({"denoiser": base.denoiser, **encoders})
        self.base = base
        self.latents = latents
        self.scenes = pool.scenes
        self.schedule = base.schedule

    def on_train_start(self) -> None:
        self.trained.requires_grad_(True).train()

    def training_step(self, _step: int) -> Tensor:
        draw, count = self.draw("base"), self.recipe.batch
        rows = torch.randint(len(self.latents), (count,), generator=draw)
        t = self.timesteps(count, draw)
        x_0 = self.latents[rows].to(self.device).float()
        noise = torch.randn(x_0.shape, generator=draw).to(x_0)
        with _fast_attention():
            conditioning = self.base.encode_prompts(self.captions(rows))
            errors = denoising_error(self.base, self.schedule, x_0, noise, t.to(self.device), conditioning)
        weight = self.schedule.bounded_inverse_weight(t, self.weighting.loss_weight_max).to(errors)
        self.log("pretrain/error", errors.detach().mean())
        return (weight * errors).mean()

    def timesteps(self, count: int, draw: torch.Generator) -> Int[Tensor, " count"]:
        anywhere = torch.randint(self.schedule.timesteps, (count,), generator=draw)
        if not self.weighting.focus:
            return anywhere
        first, end = self.weighting.decisive
        decisive = torch.randint(first, end, (count,), generator=draw)
        return torch.where(torch.rand(count, generator=draw) < self.weighting.focus, decisive, anywhere)

    def captions(self, rows: Tensor) -> list[str]:
        """Draw a caption for each picture, by (seed, step)."""
        rng = np.random.default_rng([self.recipe.seed, self.global_step])
        texts = [caption(self.scenes[int(row)], rng) for row in rows]
        return ["" if rng.random() < self.empty_share else text for text in texts]


def _fast_attention() -> AbstractContextManager[Any]:
    """Avoid the CPU's fused attention in mixed precision, whose backward pass took half of a step in bfloat16."""
    return sdpa_kernel(SDPBackend.MATH) if torch.is_autocast_enabled("cpu") else nullcontext()
