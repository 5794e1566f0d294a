"""Sampling: from noise that (prompt, seed) alone decide to images, by a diffusers scheduler with guidance."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)
from jaxtyping import Float
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.errors import UserError

__all__ = ["SCHEDULERS", "Sampler", "initial_noise"]

SCHEDULERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpm": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "pndm": PNDMScheduler,
}


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
        scheduler: one of SCHEDULERS.
        steps: how many times the unet is called for an image.
        guidance: w in e = e_uncond + w (e_cond - e_uncond); 1 is no guidance.

    Raises:
        UserError: for a scheduler not offered, fewer than one step, or negative guidance.
    """

    scheduler: str
    steps: int
    guidance: float

    def __post_init__(self) -> None:
        if self.scheduler not in SCHEDULERS:
            raise UserError(f"sampler.scheduler must be one of {', '.join(SCHEDULERS)}, got {self.scheduler!r}")
        if self.steps < 1 or self.guidance < 0:
            raise UserError(
                f"sampler.steps must be >= 1 and sampler.guidance >= 0, got {self.steps} and {self.guidance}"
            )

    def new_scheduler(self, base: Base) -> Any:
        """A fresh diffusers scheduler on the base's own noise schedule, its timesteps set."""
        scheduler = SCHEDULERS[self.scheduler].from_config(base.scheduler_config)
        scheduler.set_timesteps(self.steps)
        return scheduler

    @torch.no_grad()
    def sample(
        self,
        base: Base,
        texts: Sequence[str],
        noise: Float[Tensor, "b c hl wl"],
        on_step: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1]; scale sets, when the base has some, are chosen by the router hooked to its unet."""
        scheduler = self.new_scheduler(base)
        text = base.encode_texts(["" for _ in texts] + list(texts))
        x = noise.to(text.device, text.dtype) * scheduler.init_noise_sigma
        for step, t in enumerate(scheduler.timesteps):
            both = scheduler.scale_model_input(torch.cat([x, x]), t)
            unconditional, conditional = base.unet(both, t, encoder_hidden_states=text).sample.chunk(2)
            predicted = unconditional + self.guidance * (conditional - unconditional)
            x = scheduler.step(predicted, t, x).prev_sample
            if on_step is not None:
                on_step(step)
        return base.decode_latents(x)
