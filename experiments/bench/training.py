"""One training step, timed in its three parts: forward with the loss, backward, optimizer.

    L = mean((denoiser(x_t, t, text) - target)^2)

on random latents, text and target. AdamW serves all methods, without weight decay and with a rate so small that random
weights do not run away. No gradient is left for the next step, which is part of what a step costs.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.bench.cases import Case
from experiments.bench.sizes import SIZES

__all__ = ["Inputs", "Seconds", "Training", "inputs_of"]

RATE = 1e-6
TOKENS, TIMESTEPS, TIME_IDS = 77, 1000, 6


@dataclass(frozen=True)
class Inputs:
    """What the denoiser is given, and what it should answer."""

    sample: Tensor
    timestep: Tensor
    text: Tensor
    added: dict[str, Tensor]
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

    added = {}
    if size.pooled:
        pixels = 8.0 * side
        ids = torch.tensor([pixels, pixels, 0, 0, pixels, pixels], device=device)
        added = {"text_embeds": normal(size.pooled), "time_ids": ids.expand(case.batch, TIME_IDS)}
    t = torch.randint(TIMESTEPS, (case.batch,), generator=generator).to(device)
    return Inputs(normal(4, side, side), t, normal(TOKENS, size.text), added, normal(4, side, side))


class Training:
    """A denoiser with what its steps need. Where no weight learns, the gradient goes to the latents."""

    def __init__(self, denoiser: nn.Module, inputs: Inputs) -> None:
        self.denoiser, self.inputs = denoiser, inputs
        learning = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learning, lr=RATE, weight_decay=0.0) if learning else None
        inputs.sample.requires_grad_(not learning)

    def loss(self) -> Tensor:
        """L, with its graph."""
        given: Any = self.inputs
        prediction = self.denoiser(given.sample, given.timestep, given.text, added_cond_kwargs=given.added).sample
        return F.mse_loss(prediction, given.target)

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
