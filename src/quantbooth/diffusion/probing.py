"""Probes: what a base decides at which timestep, by swapping prompts, by forecasts, by what the text is worth."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.losses import denoising_error
from quantbooth.diffusion.sampling import Sampler

__all__ = ["forecasts", "swapped", "worth_of_text"]


@torch.no_grad()
def swapped(
    base: Base,
    sampler: Sampler,
    first: Sequence[str],
    second: Sequence[str],
    noise: Float[Tensor, "b c hl wl"],
    switch: Int[Tensor, " b"],
) -> Float[Tensor, "b 3 h w"]:
    """Images drawn from `first` while t >= switch and from `second` below, each sample with a switch of its own."""
    before, after = base.encode_prompts(first), base.encode_prompts(second)
    border = switch.to(before.device)
    return base.decode_latents(sampler.denoise(base, lambda t: Conditioning.where(t >= border, before, after), noise))


@torch.no_grad()
def forecasts(
    base: Base, sampler: Sampler, texts: Sequence[str], noise: Float[Tensor, "b c hl wl"]
) -> tuple[Float[Tensor, " steps"], Float[Tensor, "steps b 3 h w"], Float[Tensor, "b c hl wl"]]:
    """The picture that each step's prediction stands for (decoded x_0 hat), and the finished latents.

    Returns:
        The sampler's timesteps, falling; the forecast at each; the latents of the finished pictures.
    """
    schedule, conditioning = base.schedule, base.encode_prompts(texts)
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(t: Tensor, x_t: Tensor, predicted: Tensor) -> None:
        seen.append((t, base.decode_latents(schedule.origin(x_t, predicted, t)).cpu()))

    finished = sampler.denoise(base, lambda _t: conditioning, noise, watch)
    return torch.stack([t.float().cpu() for t, _ in seen]), torch.stack([picture for _, picture in seen]), finished


@torch.no_grad()
def worth_of_text(
    base: Base,
    x_0: Float[Tensor, "b c hl wl"],
    texts: Sequence[str],
    noise: Float[Tensor, "b c hl wl"],
    t: Int[Tensor, " b"],
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Per sample the denoising error given its text, and given the empty one: what the text is still worth at t."""
    schedule = base.schedule
    given, empty = base.encode_prompts(texts), base.encode_prompts([""] * len(texts))
    x_0, noise, t = x_0.to(given.tokens), noise.to(given.tokens), t.to(given.device)
    with_text, without = (denoising_error(base, schedule, x_0, noise, t, each) for each in (given, empty))
    return with_text, without
