"""What each unit is given by the quantized unet and should give by the float one, for a whole calibration set."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantbooth.artifacts.calibration_set import CalibrationSet
from quantbooth.diffusion.tape import Tape
from quantbooth.diffusion.taping import caught_inputs, caught_output
from quantbooth.diffusion.units import Unit, units_of

__all__ = ["UnitTapes"]


@dataclass(frozen=True)
class UnitTapes:
    """Two unets of one architecture, run on the same items.

    Attributes:
        unet: the float one.
        made: the quantized one, as far as it is.
        items: what both are run on.
        batch: items of a call.
    """

    unet: nn.Module
    made: nn.Module
    items: CalibrationSet
    batch: int

    def units(self, names: Sequence[str]) -> list[Unit]:
        """Every one of these layers in a unit, in the order of the call."""
        return units_of(self.unet, names, lambda: self._run(self.unet, [0]))

    def record(self, unit: Unit, folder: Path) -> Tape:
        """Inputs from the quantized unet, output from the float one; the tape lies in `folder`."""
        tape = Tape(folder, len(self.items))
        ours, theirs = self.made.get_submodule(unit.name), self.unet.get_submodule(unit.name)
        for some in torch.arange(len(self.items)).split(self.batch):
            places = some.tolist()
            given = caught_inputs(ours, partial(self._run, self.made, places))
            tape.record(places, given, caught_output(theirs, partial(self._run, self.unet, places)))
        return tape

    @property
    def device(self) -> torch.device:
        """Where the unets are."""
        return next(self.unet.parameters()).device

    def _run(self, unet: nn.Module, places: Sequence[int]) -> Any:
        items = self.items.batch(places)
        x, t, text = (tensor.to(self.device) for tensor in (items.x, items.t, items.text))
        return unet(x, t, encoder_hidden_states=text)
