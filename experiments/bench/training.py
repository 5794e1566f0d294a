"""One training step, timed in its three parts: forward with the loss, backward, optimizer.

    L = mean((denoiser(x_t, t, text) - target)^2)

on random latents, text and target. AdamW serves all methods, without weight decay and with a rate so small that random
weights do not run away. No gradient is left for the next step, which is part of what a step costs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.bench.cases import Case
from experiments.bench.sizes import SIZES
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.model import Family

__all__ = ["Inputs", "Seconds", "Training", "inputs_of"]

RATE = 1e-6
TIMESTEPS, TIME_IDS = 1000, 6


@dataclass(frozen=True)
class Inputs:
    """What the denoiser is given, how it is called with it, and what it should answer."""

    sample: Tensor
    predict: Callable[[Any, Tensor], Tensor]
    target: Tensor


@dataclass(frozen=True)
class Seconds:
    """Wall seconds of a step's parts."""

    forward: float
    backward: float
    optimizer: float


def inputs_of(case: Case, generator: torch.Generator) -> Inputs:
    """Random inputs of a case, drawn on the CPU."""
    size, side, device = SIZES[case.setting.model], case.setting.latents, case.setting.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(case.batch, *shape, generator=generator).to(device)

    pooled = normal(size.pooled) if size.pooled else None
    t = torch.randint(TIMESTEPS, (case.batch,), generator=generator).to(device)
    latents, text = (size.channels, side, side), normal(size.tokens, size.text)
    if size.family is not None:
        predict = partial(_by_transformer, size.family, t, text, pooled)
    else:
        pixels = 8.0 * side
        ids = torch.tensor([pixels, pixels, 0, 0, pixels, pixels], device=device).expand(case.batch, TIME_IDS)
        predict = partial(_by_unet, t, text, {} if pooled is None else {"text_embeds": pooled, "time_ids": ids})
    return Inputs(normal(*latents), predict, normal(*latents))


def _by_unet(t: Tensor, text: Tensor, added: dict[str, Tensor], denoiser: Any, sample: Tensor) -> Tensor:
    prediction: Tensor = denoiser(sample, t, text, added_cond_kwargs=added).sample
    return prediction


def _by_transformer(
    family: Family, t: Tensor, text: Tensor, pooled: Tensor | None, denoiser: Any, sample: Tensor
) -> Tensor:
    extra = {} if pooled is None else {"pooled": pooled}
    return family.predict(denoiser, sample, t, Conditioning(text, extra))


class Training:
    """A denoiser with what its steps need. Where no weight learns, the gradient goes to the latents."""

    def __init__(self, denoiser: nn.Module, inputs: Inputs) -> None:
        self.denoiser, self.inputs = denoiser, inputs
        learning = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learning, lr=RATE, weight_decay=0.0) if learning else None
        inputs.sample.requires_grad_(not learning)

    def loss(self) -> Tensor:
        """L, with its graph."""
        given = self.inputs
        return F.mse_loss(given.predict(self.denoiser, given.sample), given.target)

    def step(self) -> Seconds:
        """Learn once.

        Raises:
            RuntimeError: when the loss is not finite, since such a step may be faster or slower than a real one.
        """
        start = self._now()
        loss = self.loss()
        forward = self._now()
        loss.backward()
        backward = self._now()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        end = self._now()
        self.inputs.sample.grad = None
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss must be finite, got {loss.item()}")
        return Seconds(forward - start, backward - forward, end - backward)

    def _now(self) -> float:
        if self.inputs.sample.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()
