"""Sampling: images from noise that depends on (prompt, seed) only, by a diffusers scheduler with guidance."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.registry import all_schedulers
from quantbooth.runtime.devices import sent
from quantbooth.runtime.errors import UserError

__all__ = ["Reward", "Sampler", "ConditioningAt", "Watch", "initial_noise"]

ConditioningAt = Callable[[Tensor], Conditioning]
"""A timestep of the sampler -> the conditioning of each sample."""
Watch = Callable[[Tensor, Tensor, Tensor], None]


def initial_noise(
    prompts: Sequence[str], seeds: Sequence[int], shape: tuple[int, int, int]
) -> Float[Tensor, "b c h w"]:
    """Return standard normal noise; each sample depends on its (prompt, seed) only, not on the batch or the device."""

    def one(prompt: str, seed: int) -> Tensor:
        digest = hashlib.sha256(f"{prompt}\n{seed}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return torch.randn(shape, generator=generator)

    return torch.stack([one(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)])


@dataclass(frozen=True)
class Reward:
    """Reward guidance (DCO, arXiv 2402.12004): by the untuned base, plus a weighted step from it to the tuned one.

        e = e_0(uncond) + w (e_0(plain) - e_0(uncond)) + weight (e(cond) - e_0(plain))

    Attributes:
        weight: of the step.
        texts: the prompts of the untuned base, without the identifier that it does not know.
        untuned: a context in which the base is untuned, e_0.
    """

    weight: float
    texts: Sequence[str]
    untuned: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Sampler:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6) along a diffusers scheduler.

    Attributes:
        scheduler: a scheduler of the base's family.
        steps: number of inference steps.
        guidance: w in e = e_uncond + w (e_cond - e_uncond), which a family may change in its `guide`; 1 is no guidance,
            and no unconditional prediction.

    Raises:
        UserError: for a scheduler of no family.
    """

    scheduler: str
    steps: int
    guidance: float

    def __post_init__(self) -> None:
        if self.scheduler not in (offered := all_schedulers()):
            raise UserError(f"sampler.scheduler must be one of {', '.join(offered)}, got {self.scheduler!r}")

    def new_scheduler(self, base: Base) -> Any:
        """Return a new diffusers scheduler on the base's noise schedule, with its timesteps set."""
        return base.new_scheduler(self.scheduler, self.steps)

    @torch.no_grad()
    def sample(
        self,
        base: Base,
        texts: Sequence[str],
        noise: Float[Tensor, "b c hl wl"],
        negative_prompt: str = "",
        reward: Reward | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Generate images in [0, 1]; the router on the base's denoiser, if any, selects scale sets.

        The unconditional prediction of guidance is that of `negative_prompt`.
        """
        conditioning = base.encode_prompts(texts)
        return base.decode_latents(self.denoise(base, lambda _t: conditioning, noise, None, negative_prompt, reward))

    @torch.no_grad()
    def denoise(
        self,
        base: Base,
        conditioning_at: ConditioningAt,
        noise: Float[Tensor, "b c hl wl"],
        watch: Watch | None = None,
        negative_prompt: str = "",
        reward: Reward | None = None,
    ) -> Float[Tensor, "b c hl wl"]:
        """Return the latents of finished images; each step is conditioned by `conditioning_at` of its timestep.

        `watch` is called at each step with t, x_t as the denoiser reads it, and the guided prediction.
        """
        scheduler = self.new_scheduler(base)
        empty = [] if self.guidance == 1 else [base.encode_prompts([negative_prompt] * len(noise))]
        plain = None if reward is None else base.encode_prompts(reward.texts)
        like = (empty or [conditioning_at(scheduler.timesteps[0])])[0]
        x = noise.to(like.device, like.dtype) * scheduler.init_noise_sigma
        for t, there in zip(scheduler.timesteps, sent(scheduler.timesteps, x.device), strict=True):
            x_t = scheduler.scale_model_input(x, t)
            if reward is None or plain is None:
                predicted = self._guided(base, x_t, there, [*empty, conditioning_at(t)])[0]
            else:
                tuned = self._guided(base, x_t, there, [conditioning_at(t)])[0]
                with reward.untuned():
                    guided, untuned = self._guided(base, x_t, there, [*empty, plain])
                predicted = guided + reward.weight * (tuned - untuned)
            if watch is not None:
                watch(t, x_t, predicted)
            x = scheduler.step(predicted, t, x).prev_sample
        return x

    def _guided(
        self, base: Base, x_t: Float[Tensor, "b c hl wl"], t: Tensor, conditionings: Sequence[Conditioning]
    ) -> tuple[Float[Tensor, "b c hl wl"], Float[Tensor, "b c hl wl"]]:
        """Return the guided prediction and that of the last conditioning, guided by those before it, in float32."""
        rows = torch.cat([x_t] * len(conditionings))
        both = base.predict(rows, t, Conditioning.cat(conditionings)).to(x_t.dtype)  # guidance and steps in float32
        *unconditional, predicted = both.split(len(x_t))
        guided = predicted
        for other in unconditional:
            guided = base.family.guide(other, guided, self.guidance)
        return guided, predicted
