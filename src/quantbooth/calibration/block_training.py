"""Training of one block: its parameters are learned until its output matches the float block's.

    L = mean(sum_channels d(block(x, theta) - y)) + R(theta)

x is the input of the block when all blocks before it are quantized, y the output of the float block; of a block with
several outputs, such as one for the picture and one for the prompt, the first term is their sum. A `Parameterization`
defines theta, d and R: rounding of weights (`adaround`) or activation scales (`lsq`). Block by block as in BRECQ (arXiv
2102.05426).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.func import functional_call

from quantbooth.calibration.block_cache import BlockCache, tensors_in
from quantbooth.runtime.draws import generator_for, step_loader
from quantbooth.runtime.lightning import root_device

__all__ = ["BlockTraining", "Parameterization", "Tensors"]

Tensors = Mapping[str, Float[Tensor, "..."]]
"""Parameters and buffers by their names in the block."""


class Parameterization(nn.Module, ABC):
    """The parameters that a block learns, and their loss."""

    purpose: str
    """Purpose of the random draws, with the block's name."""

    @abstractmethod
    def tensors(self) -> Tensors:
        """Return the current theta, with gradient."""

    @abstractmethod
    def optimizers(self) -> Any:
        """Return the value of Lightning's `configure_optimizers`."""

    @abstractmethod
    def distance(self, gap: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return d of each element."""

    def penalty(self, step: int) -> Float[Tensor, ""] | None:
        """Return R at an optimizer step; None where there is none."""
        return None


@runtime_checkable
class BlockConfig(Protocol):
    """The options that every block training has."""

    @property
    def iterations(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def seed(self) -> int: ...


class BlockTraining(LightningModule):
    """One block, called with learned tensors in place of its own.

    Args:
        name: of the block; decides the random batches, with the seed.
        block: its own tensors are not changed.
        learned: the parameters to learn.
        cache: inputs and target outputs.
        config: optimizer steps, items per step, and the seed.
    """

    def __init__(
        self, name: str, block: nn.Module, learned: Parameterization, cache: BlockCache, config: BlockConfig
    ) -> None:
        super().__init__()
        self.block_name, self.block, self.learned, self.cache, self.config = name, block, learned, cache, config

    def configure_optimizers(self) -> Any:
        return self.learned.optimizers()

    def train_dataloader(self) -> object:
        return step_loader(self.config.iterations)

    def training_step(self, _step: int) -> Tensor:
        draw = generator_for(self.config.seed, self.global_step, f"{self.learned.purpose} {self.block_name}")
        indices = torch.randint(self.cache.items, (self.config.batch,), generator=draw).tolist()
        loss = self.error(self.learned.tensors(), indices)
        self.log("error", loss)
        penalty = self.learned.penalty(self.global_step)
        return loss if penalty is None else loss + penalty

    def error(self, tensors: Tensors, indices: Sequence[int]) -> Float[Tensor, ""]:
        """Return the first term of L over some items, with these tensors in the block."""
        call, target = self.cache.batch(indices, self.device)
        output = functional_call(self.block, dict(tensors), call.args, call.kwargs)
        pairs = zip(tensors_in(output), tensors_in(target), strict=True)
        errors = [self.learned.distance(y - wanted).sum(1 if y.ndim == 4 else -1).mean() for y, wanted in pairs]
        return torch.stack(errors).sum()

    @torch.no_grad()
    def error_of(self, tensors: Tensors) -> float:
        """Return the first term of L over all items."""
        indices = torch.arange(self.cache.items).split(self.config.batch)
        errors = [self.error(tensors, some.tolist()) * len(some) for some in indices]
        return float(torch.stack(errors).sum() / self.cache.items)

    def train_by(self, trainer: Trainer) -> None:
        """Train to the last step; the block stays on the trainer's device."""
        trainer.fit(self)
        self.to(root_device(trainer))  # Lightning moves a trained module to the CPU; the block's denoiser stays in use
