"""Activations of a quantized denoiser: their ranges are watched, then block after block their scales are learned.

Each unit is learned when all weights are quantized and all units before it are done, as in Q-Diffusion (arXiv
2302.04304).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from quantbooth.artifacts.calibration_set import CalibrationSet
from quantbooth.artifacts.progress import Progress
from quantbooth.diffusion.activation_points import place_, points
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.tape import Tape
from quantbooth.diffusion.units import Unit
from quantbooth.quant.activations import ActivationBits, ActivationQuantizer
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.running_range import RunningRange
from quantbooth.stages.activation_ranges import RangeStage
from quantbooth.stages.step_learning import StepRecipe, StepStage
from quantbooth.stages.unit_tapes import Recorder, UnitTapes

__all__ = ["STEP_ERRORS", "BlockSteps"]

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
