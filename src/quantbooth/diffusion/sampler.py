"""Sampling: from noise that (prompt, seed) alone decide to images, by a diffusers scheduler with guidance."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.registry import all_schedulers
from quantbooth.runtime.errors import UserError

__all__ = ["Sampler", "ConditioningAt", "Watch", "initial_noise"]

ConditioningAt = Callable[[Tensor], Conditioning]
"""A timestep of the sampler -> what conditions each sample there."""
Watch = Callable[[Tensor, Tensor, Tensor], None]


def initial_noise(
    prompts: Sequence[str], seeds: Sequence[int], shape: tuple[int, int, int]
) -> Float[Tensor, "b c h w"]:
    """Standard normal noise whose every sample depends on its own (prompt, seed) only, never on its batch or device."""

    def one(prompt: str, seed: int) -> Tensor:
        digest = hashlib.sha256(f"{prompt}\n{seed}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return torch.randn(shape, generator=generator)

    return torch.stack([one(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)])


@dataclass(frozen=True)
class Sampler:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6) along a diffusers scheduler.

    Attributes:
        scheduler: one that the family of the base has.
        steps: how many times the denoiser is called for an image.
        guidance: w in e = e_uncond + w (e_cond - e_uncond); 1 is no guidance.

    Raises:
        UserError: for a scheduler not offered, fewer than one step, or negative guidance.
    """

    scheduler: str
    steps: int
    guidance: float

    def __post_init__(self) -> None:
        if self.scheduler not in (offered := all_schedulers()):
            raise UserError(f"sampler.scheduler must be one of {', '.join(offered)}, got {self.scheduler!r}")
        if self.steps < 1 or self.guidance < 0:
            raise UserError(
                f"sampler.steps must be >= 1 and sampler.guidance >= 0, got {self.steps} and {self.guidance}"
            )

    def new_scheduler(self, base: Base) -> Any:
        """A fresh diffusers scheduler on the base's own noise schedule, its timesteps set."""
        return base.new_scheduler(self.scheduler, self.steps)

    @torch.no_grad()
    def sample(self, base: Base, texts: Sequence[str], noise: Float[Tensor, "b c hl wl"]) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1]; scale sets, when the base has some, are chosen by the router hooked to its denoiser."""
        conditioning = base.encode_prompts(texts)
        return base.decode_latents(self.denoise(base, lambda _t: conditioning, noise))

    @torch.no_grad()
    def denoise(
        self,
        base: Base,
        conditioning_at: ConditioningAt,
        noise: Float[Tensor, "b c hl wl"],
        watch: Watch | None = None,
    ) -> Float[Tensor, "b c hl wl"]:
        """Latents of finished images, every step conditioned on what `conditioning_at` says for its timestep.

        `watch` is told at each step t, x_t at unit variance as the denoiser sees it, and the guided prediction.
        """
        scheduler = self.new_scheduler(base)
        empty = base.encode_prompts([""] * len(noise))
        x = noise.to(empty.device, empty.dtype) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            x_t = scheduler.scale_model_input(x, t)
            conditioning = Conditioning.cat([empty, conditioning_at(t)])
            both = base.predict(torch.cat([x_t, x_t]), t, conditioning)
            unconditional, conditional = both.chunk(2)
            predicted = unconditional + self.guidance * (conditional - unconditional)
            if watch is not None:
                watch(t, x_t, predicted)
            x = scheduler.step(predicted, t, x).prev_sample
        return x
