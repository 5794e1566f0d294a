"""Sources of the noised latents of a calibration set.

Q-Diffusion (arXiv 2302.04304, section 3.3) runs the float base's sampler and keeps x_t at evenly spaced timesteps: the
inputs of a denoiser change with t, so a set with one kind of t calibrates the others badly. The other two sources are
for comparison.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count as counted

import torch
from jaxtyping import Float
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.noise_schedule import NoiseSchedule
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.runtime.errors import UserError

__all__ = [
    "SOURCES",
    "PromptBatch",
    "ForwardSource",
    "NormalSource",
    "SamplerSource",
    "Source",
    "batches",
    "kept_steps",
    "source_of",
]


@dataclass(frozen=True)
class PromptBatch:
    """Some prompts with a seed each, and their true pictures where known."""

    texts: tuple[str, ...]
    seeds: tuple[int, ...]
    pictures: Float[Tensor, "b 3 h w"] | None = None

    def noise(self, base: Base, purpose: str = "") -> Float[Tensor, "b c hl wl"]:
        """Return standard normal noise that depends on prompt, seed and purpose only."""
        return initial_noise([f"{purpose}{text}" for text in self.texts], self.seeds, base.latent_shape)


def kept_steps(steps: int, count: int) -> list[int]:
    """Return `count` of the indices 0 .. steps - 1, evenly spaced with both ends (one: the middle).

    Raises:
        UserError: when there are fewer.
    """
    if not 1 <= count <= steps:
        raise UserError(f"calibration.set.timesteps must be in [1, {steps}] with sampler.steps={steps}, got {count}")
    if count == 1:
        return [steps // 2]
    return [round(index * (steps - 1) / (count - 1)) for index in range(count)]


@dataclass(frozen=True)
class Source(ABC):
    """Returns x_t of prompts at chosen steps of the sampler."""

    sampler: Sampler

    def timesteps(self, base: Base, count: int) -> Float[Tensor, " count"]:
        """Return the timesteps of the states; a scheduler may have fractional ones."""
        steps = self.sampler.new_scheduler(base).timesteps
        return steps[kept_steps(len(steps), count)].float()

    @abstractmethod
    def check(self, prompts: PromptBatch) -> None:
        """Raise UserError when the prompts lack what the source needs."""

    @abstractmethod
    def states(self, base: Base, prompts: PromptBatch, count: int) -> Float[Tensor, "b count c hl wl"]:
        """Return x_t at unit variance, as the denoiser gets it, at each of `count` timesteps.

        Raises:
            UserError: when the prompts lack what the source needs.
        """


@dataclass(frozen=True)
class SamplerSource(Source):
    """The states of the float base's sampler."""

    def check(self, prompts: PromptBatch) -> None: ...

    def states(self, base: Base, prompts: PromptBatch, count: int) -> Float[Tensor, "b count c hl wl"]:
        kept = set(kept_steps(len(self.sampler.new_scheduler(base).timesteps), count))
        conditioning, index = base.encode_prompts(prompts.texts), counted()
        met: list[Tensor] = []

        def keep(_t: Tensor, x_t: Tensor, _predicted: Tensor) -> None:
            if next(index) in kept:
                met.append(x_t.cpu())

        self.sampler.denoise(base, lambda _t: conditioning, prompts.noise(base), keep)
        return torch.stack(met, dim=1)


@dataclass(frozen=True)
class NormalSource(Source):
    """Noise at every timestep."""

    def check(self, prompts: PromptBatch) -> None: ...

    def states(self, base: Base, prompts: PromptBatch, count: int) -> Float[Tensor, "b count c hl wl"]:
        return torch.stack([prompts.noise(base, f"{index} ") for index in range(count)], dim=1)


@dataclass(frozen=True)
class ForwardSource(Source):
    """True pictures, noised as in training (DDPM, eq. 4); fractional timesteps are rounded."""

    def check(self, prompts: PromptBatch) -> None:
        if prompts.pictures is None:
            raise UserError(
                "calibration.set.source=forward noises true pictures, and these prompts have none; "
                "choose sampler or normal"
            )

    def states(self, base: Base, prompts: PromptBatch, count: int) -> Float[Tensor, "b count c hl wl"]:
        self.check(prompts)
        assert prompts.pictures is not None
        latents, schedule = base.encode_images(prompts.pictures).cpu(), base.schedule
        times = self.timesteps(base, count).round().long().tolist()
        return torch.stack([self._noised(base, prompts, schedule, latents, t) for t in times], dim=1)

    @staticmethod
    def _noised(base: Base, prompts: PromptBatch, schedule: NoiseSchedule, latents: Tensor, t: int) -> Tensor:
        return schedule.add_noise(latents, prompts.noise(base, f"{t} "), torch.full((len(latents),), t))


SOURCES: dict[str, type[Source]] = {"sampler": SamplerSource, "normal": NormalSource, "forward": ForwardSource}


def source_of(name: str, sampler: Sampler) -> Source:
    """Return the source of a name."""
    return SOURCES[name](sampler)


def batches(prompts: PromptBatch, size: int) -> Sequence[PromptBatch]:
    """Split the prompts into batches of `size`."""
    return [
        PromptBatch(
            prompts.texts[start : start + size],
            prompts.seeds[start : start + size],
            None if prompts.pictures is None else prompts.pictures[start : start + size],
        )
        for start in range(0, len(prompts.texts), size)
    ]
