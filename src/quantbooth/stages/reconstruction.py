"""Reconstruction: the rounding of one unit is learned until it gives what the float unit gave, under Lightning's loop.

    L = mean(sum_channels (unit(x, W~) - y)^2) + weight sum R(V)

x is what the unit is given when all units before it are quantized, y what the float unit gives when none is. After
`warm_up` of the iterations R sets in, its beta falling along a line; at the end every weight is rounded hard. BRECQ
(arXiv 2102.05426), with the choices of Q-Diffusion (arXiv 2302.04304).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import functional_call

from quantbooth.data.draws import generator_for, step_loader
from quantbooth.data.options import number, whole
from quantbooth.diffusion.tape import Tape
from quantbooth.errors import UserError
from quantbooth.quant.rounding import LearnedRounding

__all__ = ["Reconstruction", "UnitStage"]

Codes = dict[str, UInt8[Tensor, "_out ..."]]


@dataclass(frozen=True)
class Reconstruction:
    """How a unit's rounding is learned.

    Attributes:
        iterations: optimizer steps.
        batch: items of a step.
        learning_rate: Adam's.
        penalty: weight of R.
        warm_up: fraction of the iterations without R.
        beta: of R, at first and in the end.
        seed: decides which items a step sees.

    Raises:
        UserError: naming the option that is not such a number.
    """

    iterations: int
    batch: int
    learning_rate: float
    penalty: float
    warm_up: float
    beta: Sequence[float]
    seed: int

    def __post_init__(self) -> None:
        for name, least in (("iterations", 1), ("batch", 1), ("seed", 0)):
            whole(f"calibration.rounding.{name}", getattr(self, name), least=least)
        number("calibration.rounding.learning_rate", self.learning_rate, least=0)
        number("calibration.rounding.penalty", self.penalty, least=0)
        number("calibration.rounding.warm_up", self.warm_up, least=0, below=1)
        if not isinstance(self.beta, Sequence) or len(self.beta) != 2:
            raise UserError(f"calibration.rounding.beta must be two numbers, the first and the last, got {self.beta!r}")
        for beta in self.beta:
            number("calibration.rounding.beta", beta, least=0)

    def beta_at(self, step: int) -> float | None:
        """beta of a step, None before R sets in."""
        start = self.warm_up * self.iterations
        if step < start:
            return None
        first, last = self.beta
        return last + (first - last) * (1 - (step - start) / (self.iterations - start))


class UnitStage(LightningModule):
    """One unit, whose weights are rounded as `roundings` say, by the names its layers have inside it.

    Args:
        name: of the unit, decides the draws with the recipe's seed.
        unit: its own weights are not changed.
        roundings: of weights, by their names within the unit ("conv1.weight").
        tape: what it is given and should give.
        recipe: how it learns.
    """

    def __init__(
        self,
        name: str,
        unit: nn.Module,
        roundings: Mapping[str, LearnedRounding],
        tape: Tape,
        recipe: Reconstruction,
    ) -> None:
        super().__init__()
        self.unit_name, self.unit, self.tape, self.recipe = name, unit, tape, recipe
        self.weights, self.roundings = tuple(roundings), nn.ModuleList(roundings.values())
        self.nearest = self.codes()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([rounding.v for _, rounding in self._named], lr=self.recipe.learning_rate)

    def train_dataloader(self) -> object:
        return step_loader(self.recipe.iterations)

    def training_step(self, _step: int) -> Tensor:
        draw = generator_for(self.recipe.seed, self.global_step, f"reconstruct {self.unit_name}")
        places = torch.randint(self.tape.items, (self.recipe.batch,), generator=draw).tolist()
        loss = self.error({name: rounding.weight() for name, rounding in self._named}, places)
        self.log("error", loss.detach(), prog_bar=True)
        beta = self.recipe.beta_at(self.global_step)
        if beta is None:
            return loss
        return loss + self.recipe.penalty * torch.stack([rounding.penalty(beta) for _, rounding in self._named]).sum()

    def error(self, weights: Mapping[str, Tensor], places: Sequence[int]) -> Float[Tensor, ""]:
        """Mean over items and places of the squared error summed over channels, with these weights in the unit."""
        given, target = self.tape.batch(places, self.device)
        output = functional_call(self.unit, dict(weights), given.args, dict(given.kwargs))
        channel = 1 if output.ndim == 4 else -1
        return (output - target).square().sum(channel).mean()

    @torch.no_grad()
    def error_of(self, codes: Codes) -> float:
        """The same over the whole tape with hard codes."""
        weights = {name: (codes[name] - rounding.zero) * rounding.scale for name, rounding in self._named}
        places = torch.arange(self.tape.items).split(self.recipe.batch)
        errors = [self.error(weights, some.tolist()) * len(some) for some in places]
        return float(torch.stack(errors).sum() / self.tape.items)

    def codes(self) -> Codes:
        """The codes as they are learned now, by the name of the weight."""
        return {name: rounding.codes() for name, rounding in self._named}

    @property
    def _named(self) -> list[tuple[str, LearnedRounding]]:
        return list(zip(self.weights, self.roundings, strict=True))  # type: ignore[arg-type]  # all are roundings
