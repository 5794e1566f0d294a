"""Learned steps: the activation scales of one unit are learned until it gives what the float unit gave.

    L = mean(sum_channels |unit(x, s) - y|^p),    s = s0 exp(r)

x is what the unit is given when all units before it are quantized, y what the float unit gives when none is; s0 is the
scale of the range that was watched. r is learned, so that a step of Adam changes every scale by the same share and none
below 0. LSQ (arXiv 1902.08153) gives dL/ds; block by block with p = 2.4, Adam and a cosine as in Q-Diffusion (arXiv
2302.04304), which learns s itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import functional_call

from quantbooth.data.draws import generator_for, step_loader
from quantbooth.data.options import number, whole
from quantbooth.diffusion.tape import Tape
from quantbooth.errors import UserError
from quantbooth.quant.activations import ActivationQuantizer

__all__ = ["StepRecipe", "StepStage"]

Scales = dict[str, Float[Tensor, " _parts"]]


@dataclass(frozen=True)
class StepRecipe:
    """How activation ranges are watched and scales learned.

    Attributes:
        momentum: of the running ranges.
        batch: items of a batch, watched or learned from.
        iterations: optimizer steps of each unit; 0 keeps the scales of the ranges.
        learning_rate: Adam's at first, of a scale relative to itself.
        norm: p.
        seed: decides in which order items are watched, and which a step sees.

    Raises:
        UserError: naming the option that is not such a number.
    """

    momentum: float
    batch: int
    iterations: int
    learning_rate: float
    norm: float
    seed: int

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("iterations", 0), ("seed", 0)):
            whole(f"calibration.activations.{name}", getattr(self, name), least=least)
        number("calibration.activations.momentum", self.momentum, least=0, below=1)
        number("calibration.activations.learning_rate", self.learning_rate, least=0)
        if number("calibration.activations.norm", self.norm, least=0) == 0:
            raise UserError("calibration.activations.norm must be positive, got 0")


class StepStage(LightningModule):
    """One unit of the quantized denoiser, whose scales are `start` as it is made.

    Args:
        name: of the unit, decides the draws with the recipe's seed.
        unit: is not changed.
        quantizers: those in it, by their names within the unit.
        tape: what it is given and should give.
        recipe: how it learns.
    """

    def __init__(
        self,
        name: str,
        unit: nn.Module,
        quantizers: Mapping[str, ActivationQuantizer],
        tape: Tape,
        recipe: StepRecipe,
    ) -> None:
        super().__init__()
        self.unit_name, self.unit, self.tape, self.recipe = name, unit, tape, recipe
        self.start: Scales = {f"{point}.scale": made.scale.clone() for point, made in quantizers.items()}
        self.r = nn.ParameterList(torch.zeros_like(scale) for scale in self.start.values())

    def scales(self) -> Scales:
        """The scales as they are learned now, by the names of the unit's buffers."""
        return {name: s0 * r.exp() for (name, s0), r in zip(self.start.items(), self.r, strict=True)}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.r, lr=self.recipe.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, self.recipe.iterations))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> object:
        return step_loader(self.recipe.iterations)

    def training_step(self, _step: int) -> Tensor:
        draw = generator_for(self.recipe.seed, self.global_step, f"steps of {self.unit_name}")
        places = torch.randint(self.tape.items, (self.recipe.batch,), generator=draw).tolist()
        loss = self.error(self.scales(), places)
        self.log("error", loss.detach(), prog_bar=True)
        return loss

    def error(self, scales: Scales, places: Sequence[int]) -> Float[Tensor, ""]:
        """L over some items, with these scales in the unit."""
        given, target = self.tape.batch(places, self.device)
        output = functional_call(self.unit, scales, given.args, dict(given.kwargs))
        channel = 1 if output.ndim == 4 else -1
        return (output - target).abs().pow(self.recipe.norm).sum(channel).mean()

    @torch.no_grad()
    def error_of(self, scales: Scales) -> float:
        """L over the whole tape."""
        places = torch.arange(self.tape.items).split(self.recipe.batch)
        errors = [self.error(scales, some.tolist()) * len(some) for some in places]
        return float(torch.stack(errors).sum() / self.tape.items)
