"""Block after block: each unit of a denoiser is taped, its rounding learned, and the next unit sees what came of it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Trainer
from torch import Tensor, nn

from quantbooth.artifacts.calibration_set import CalibrationSet
from quantbooth.artifacts.progress import Progress
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.tape import Tape
from quantbooth.diffusion.units import Unit
from quantbooth.quant.layers import QuantizedLayer
from quantbooth.quant.rounding import LearnedRounding
from quantbooth.quant.scale_search import ScaleSearch
from quantbooth.quant.surgery import Replaced, Splits, like, replace_
from quantbooth.stages.reconstruction import Reconstruction, UnitStage
from quantbooth.stages.unit_tapes import Recorder, UnitTapes

__all__ = ["BlockRounding", "Outcome"]

ERRORS = ("nearest", "learned")
"""Of a unit's output over the whole calibration set, with the nearest codes and with those that were learned."""


@dataclass(frozen=True)
class Outcome:
    """A unit that is done: its errors by ERRORS."""

    unit: Unit
    errors: Mapping[str, float]


class BlockRounding:
    """Makes a quantized denoiser of a float one, which stays as it is.

    The quantized denoiser shares every float tensor it still has with the float one. Codes are the learned ones where
    they bring the unit nearer to the float unit than the nearest codes do, else those.

    Args:
        base: with the float one.
        names: layers to quantize.
        splits: which of them have a scale for each part of their inputs.
        search: finds scales.
        recipe: how rounding is learned.
        items: what the denoiser is run on.
        trainer: makes the trainer of one unit from what it does, in words.
    """

    def __init__(
        self,
        base: Base,
        names: Sequence[str],
        splits: Splits,
        search: ScaleSearch,
        recipe: Reconstruction,
        items: CalibrationSet,
        trainer: Callable[[str], Trainer],
    ) -> None:
        self.denoiser, made = base.denoiser, _sharing(base.denoiser)
        self.made = base.with_denoiser(made)
        self.splits, self.search, self.recipe, self.trainer = splits, search, recipe, trainer
        self.replaced: list[Replaced] = []
        self.tapes = UnitTapes(base, self.made, names, items, 4 * recipe.batch)
        self.units = self.tapes.units

    def run(self, progress: Progress, note: Callable[[int, Outcome], Any]) -> None:
        """Do every unit that `progress` does not have; `note` is told of each with its number."""
        with progress.scratch() as folder:
            recorder = Recorder(self.tapes, folder)
            for number, unit in enumerate(self.units):
                found = progress.read(number)
                if found is None:
                    with recorder.tape(number) as tape:
                        found = self._learned(unit, tape, f"rounding block {number + 1} of {len(self.units)}")
                    progress.write(number, found)
                self._put(unit, found)
                note(number, Outcome(unit, {name: float(found[name]) for name in ERRORS}))

    def _learned(self, unit: Unit, tape: Tape, what: str) -> dict[str, Tensor]:
        """The state of the unit's quantized layers by the names of layers, and its errors."""
        affine = {name: self._empty(name).form.fit(self._weight(name), self.search) for name in unit.layers}
        roundings = {_key(unit, name): self._rounding(name, *affine[name]) for name in unit.layers}
        stage = UnitStage(unit.name, self.made.denoiser.get_submodule(unit.name), roundings, tape, self.recipe)
        self.trainer(what).fit(stage)
        stage.to(self.device)  # Lightning takes a finished stage off a GPU
        candidates = {"nearest": stage.nearest, "learned": stage.codes()}
        errors = {name: stage.error_of(codes) for name, codes in candidates.items()}
        codes = candidates[min(errors, key=errors.__getitem__)]
        layers = {name: self._filled(name, codes[_key(unit, name)], *affine[name]) for name in unit.layers}
        return _states(layers) | {name: torch.tensor(error) for name, error in errors.items()}

    def _put(self, unit: Unit, found: Mapping[str, Tensor]) -> None:
        for name in unit.layers:
            layer = self._empty(name)
            layer.load_state_dict({key: found[f"{name}.{key}"] for key in layer.state_dict()}, assign=True)
            self.replaced.append(replace_(self.made.denoiser, name, layer.to(self.device)))

    def _rounding(self, name: str, scale: Tensor, zero: Tensor) -> LearnedRounding:
        form = self._empty(name).form
        return LearnedRounding(self._weight(name), form.spread(scale), form.spread(zero), self.search.grid)

    def _filled(self, name: str, codes: Tensor, scale: Tensor, zero: Tensor) -> QuantizedLayer:
        bias = self.denoiser.get_submodule(name).bias
        return self._empty(name).fill_(codes, scale, zero, bias)

    def _empty(self, name: str) -> QuantizedLayer:
        layer = self.denoiser.get_submodule(name)
        return like(layer, name, self.search.grid.bits, self.device, self.splits.get(name, ()))

    @property
    def device(self) -> torch.device:
        """Where the denoisers are."""
        return self.tapes.device

    def _weight(self, name: str) -> Float[Tensor, "out ..."]:
        return self.denoiser.get_submodule(name).get_parameter("weight").detach()


def _sharing(denoiser: nn.Module) -> nn.Module:
    """Another denoiser of the same tensors."""
    tensors = chain(denoiser.parameters(), denoiser.buffers())
    return copy.deepcopy(denoiser, {id(tensor): tensor for tensor in tensors})


def _key(unit: Unit, layer: str) -> str:
    """The name of a layer's weight within its unit, which may be the layer itself."""
    return f"{layer}.weight".removeprefix(f"{unit.name}.")


def _states(layers: Mapping[str, QuantizedLayer]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}
