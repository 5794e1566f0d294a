"""Learned steps: the activation scales of each unit are learned until it gives what the float unit gave.

Learned steps: the activation scales of one unit are learned until it gives what the float unit gave.

    L = mean(sum_channels |unit(x, s) - y|^p),    s = s0 exp(r)

x is what the unit is given when all units before it are quantized, y what the float unit gives when none is; s0 is the
scale of the range that was watched. r is learned, so that a step of Adam changes every scale by the same share and none
below 0. LSQ (arXiv 1902.08153) gives dL/ds; block by block with p = 2.4, Adam and a cosine as in Q-Diffusion (arXiv
2302.04304), which learns s itself.

Activations of a quantized denoiser: their ranges are watched, then block after block their scales are learned.

Each unit is learned when all weights are quantized and all units before it are done, as in Q-Diffusion (arXiv
2302.04304).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.func import functional_call

from quantbooth.calibration.activations import RangeStage, place_, points
from quantbooth.calibration.calibration_set import CalibrationSet
from quantbooth.calibration.replay import Recorder, UnitTapes
from quantbooth.calibration.tape import Tape
from quantbooth.calibration.units import Unit
from quantbooth.diffusion.base import Base
from quantbooth.quant.activations import ActivationBits, ActivationQuantizer
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.observers import RunningRange
from quantbooth.runtime.draws import generator_for, step_loader
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.options import number, whole
from quantbooth.store.progress import Progress

__all__ = ["BlockSteps", "STEP_ERRORS", "StepRecipe", "StepStage"]

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


STEP_ERRORS = ("activations_watched", "activations_learned")
"""Of a unit's output over the whole calibration set, with the scales of the ranges and with those that were learned."""

Note = Callable[[int, Unit, Mapping[str, float]], Any]


@dataclass(frozen=True)
class BlockSteps:
    """Quantizes the activations of a denoiser whose weights are quantized.

    A unit keeps the learned scales where they bring it nearer to the float unit than those of the ranges do.

    Attributes:
        made: the base with the quantized denoiser.
        bits: of its activations.
        recipe: how ranges are watched and scales learned.
        items: what the denoisers are run on.
        trainer: makes the trainer of one piece of work from what it does, in words.
    """

    made: Base
    bits: ActivationBits
    recipe: StepRecipe
    items: CalibrationSet
    trainer: Callable[[str], Trainer]

    def run(self, progress: Progress, base: Callable[[], Base], note: Note) -> dict[str, ActivationBits]:
        """Do what `progress` does not have: its part 0 are the ranges, part k the scales of unit k.

        Args:
            progress: of this work alone.
            base: makes the base with the float denoiser; asked only where scales are to be learned.
            note: is told of each unit with its number, from 0, and its errors by STEP_ERRORS.

        Returns:
            What was installed in attention modules, by their names.
        """
        device, found = next(self.made.denoiser.parameters()).device, progress.read(0)
        if found is None:
            found = self._watched()
            progress.write(0, found)
            self.made.denoiser.to(device)  # Lightning takes what it ran off a GPU
        attentions = place_(
            self.made.denoiser, partial(ActivationQuantizer, self.bits.inputs, device=device), self.bits.softmax
        )
        for name, quantizer in self._quantizers().items():
            quantizer.load_state_dict({key: found[f"{name}.{key}"] for key in quantizer.state_dict()})
        if self.recipe.iterations:
            self._learn(progress, base(), note)
        return dict.fromkeys(attentions, self.bits)

    def _watched(self) -> dict[str, Tensor]:
        """The scales and zero points of all ranges, by the names of the denoiser's buffers."""
        place_(self.made.denoiser, partial(RunningRange, self.recipe.momentum), self.bits.softmax)
        stage = RangeStage(self.made, self.items, self.recipe.seed)
        loader = stage.loader(self.recipe.batch)
        self.trainer("watching activations").predict(stage, loader, return_predictions=False)
        ranges = {name: point for name, point in points(self.made.denoiser).items() if isinstance(point, RunningRange)}
        states = {name: point.quantizer(self.bits.inputs).state_dict() for name, point in ranges.items()}
        return {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}

    def _learn(self, progress: Progress, base: Base, note: Note) -> None:
        base.denoiser.to(next(self.made.denoiser.parameters()).device)
        names = [name for name, _ in quantized_layers(self.made.denoiser)]
        tapes = UnitTapes(base, self.made, names, self.items, 4 * self.recipe.batch)
        with progress.scratch() as folder:
            recorder = Recorder(tapes, folder)
            for number, unit in enumerate(tapes.units):
                found = progress.read(number + 1)
                if found is None:
                    with recorder.tape(number) as tape:
                        what = f"activations of block {number + 1} of {len(tapes.units)}"
                        found = self._learned(unit, tape, what, tapes.device)
                    progress.write(number + 1, found)
                for name, quantizer in self._quantizers(unit.name).items():
                    quantizer.scale.copy_(found[f"{name}.scale"])
                note(number, unit, {name: float(found[name]) for name in STEP_ERRORS})

    def _learned(self, unit: Unit, tape: Tape, what: str, device: torch.device) -> dict[str, Tensor]:
        """The better scales of the unit's quantizers, by the names of the denoiser's buffers, and both errors."""
        inside = {_within(unit, name): quantizer for name, quantizer in self._quantizers(unit.name).items()}
        stage = StepStage(unit.name, self.made.denoiser.get_submodule(unit.name), inside, tape, self.recipe)
        self.trainer(what).fit(stage)
        stage.to(device)  # Lightning takes a finished stage off a GPU
        candidates = dict(zip(STEP_ERRORS, (stage.start, stage.scales()), strict=True))
        errors = {name: stage.error_of(scales) for name, scales in candidates.items()}
        better = candidates[min(errors, key=errors.__getitem__)]
        kept = {f"{unit.name}.{name}": scale.detach() for name, scale in better.items()}
        return kept | {name: torch.tensor(error) for name, error in errors.items()}

    def _quantizers(self, unit: str | None = None) -> dict[str, ActivationQuantizer]:
        """Those of the denoiser, or of one unit of it, by their names in the denoiser."""
        found = {
            name: point for name, point in points(self.made.denoiser).items() if isinstance(point, ActivationQuantizer)
        }
        return {name: point for name, point in found.items() if unit is None or name.startswith(f"{unit}.")}


def _within(unit: Unit, name: str) -> str:
    return name.removeprefix(f"{unit.name}.")
