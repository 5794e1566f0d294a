"""Learned steps: the activation scales of each unit are learned until it gives what the float unit gave.

    L = mean(sum_channels |unit(x, s) - y|^p),    s = s0 exp(r)

x is what the unit is given when all units before it are quantized, y what the float unit gives when none is; s0 is the
scale of the range that was watched. r is learned, so that a step of Adam changes every scale by the same share and none
below 0. LSQ (arXiv 1902.08153) gives dL/ds; block by block with p = 2.4, Adam and a cosine as in Q-Diffusion (arXiv
2302.04304), which learns s itself.

The ranges of all activations are watched first. Each unit is learned when all weights are quantized and all units
before it are done, as in Q-Diffusion.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Trainer
from torch import Tensor, nn

from quantbooth.calibration.activations import place_, points, watch_ranges
from quantbooth.calibration.block_training import BlockTraining, Parameterization, Tensors
from quantbooth.calibration.calibration_set import CalibrationSet
from quantbooth.calibration.replay import Recorder, UnitTapes
from quantbooth.calibration.tape import Tape
from quantbooth.calibration.units import Unit
from quantbooth.diffusion.base import Base
from quantbooth.quant.activations import ActivationBits, ActivationQuantizer
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.observers import RunningRange
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.lightning import Loop
from quantbooth.runtime.options import number, whole
from quantbooth.store.progress import Progress

__all__ = ["BlockSteps", "STEP_ERRORS", "Scales", "StepRecipe"]


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


class Scales(Parameterization):
    """The scales s0 exp(r) of a unit's quantizers, which start as s0 (LSQ, arXiv 1902.08153).

    Args:
        quantizers: of the unit, by their names within it.
        recipe: how scales are learned.
    """

    purpose = "steps of"

    def __init__(self, quantizers: Mapping[str, ActivationQuantizer], recipe: StepRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.start: Tensors = {f"{point}.scale": made.scale.clone() for point, made in quantizers.items()}
        self.r = nn.ParameterList(torch.zeros_like(scale) for scale in self.start.values())

    def tensors(self) -> Tensors:
        return {name: s0 * r.exp() for (name, s0), r in zip(self.start.items(), self.r, strict=True)}

    def optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.r, lr=self.recipe.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, self.recipe.iterations))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def distance(self, gap: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        return gap.abs().pow(self.recipe.norm)


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
        loop: runs what is not learned.
        trainer: makes the trainer of one unit from what it does, in words.
    """

    made: Base
    bits: ActivationBits
    recipe: StepRecipe
    items: CalibrationSet
    loop: Loop
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
        watch_ranges(self.made, self.items, self.recipe.seed, self.recipe.batch, self.loop)
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
                        found = self._learned(unit, tape, what)
                    progress.write(number + 1, found)
                for name, quantizer in self._quantizers(unit.name).items():
                    quantizer.scale.copy_(found[f"{name}.scale"])
                note(number, unit, {name: float(found[name]) for name in STEP_ERRORS})

    def _learned(self, unit: Unit, tape: Tape, what: str) -> dict[str, Tensor]:
        """The better scales of the unit's quantizers, by the names of the denoiser's buffers, and both errors."""
        inside = {_within(unit, name): quantizer for name, quantizer in self._quantizers(unit.name).items()}
        learned, block = Scales(inside, self.recipe), self.made.denoiser.get_submodule(unit.name)
        training = BlockTraining(unit.name, block, learned, tape, self.recipe)
        training.train_by(self.trainer(what))
        candidates = dict(zip(STEP_ERRORS, (learned.start, learned.tensors()), strict=True))
        errors = {name: training.error_of(scales) for name, scales in candidates.items()}
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
