"""What each unit is given by the quantized unet and should give by the float one, for a whole calibration set."""

import gc
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from quantbooth.artifacts.calibration_set import CalibrationSet
from quantbooth.diffusion.replay import Replay, most_kept, uses_of
from quantbooth.diffusion.tape import Tape
from quantbooth.diffusion.taping import caught_inputs, caught_output
from quantbooth.diffusion.units import units_of
from quantbooth.errors import UserError

__all__ = ["Recorder", "UnitTapes"]

GB = 1e9


class UnitTapes:
    """Two unets of one architecture, run on the same items.

    Args:
        unet: the float one.
        made: the quantized one, as far as it is.
        names: layers to learn; `units` holds every one of them, in the order of the call.
        items: what both are run on.
        batch: items of a call.
    """

    def __init__(
        self, unet: nn.Module, made: nn.Module, names: Sequence[str], items: CalibrationSet, batch: int
    ) -> None:
        self.unet, self.made, self.items, self.batch = unet, made, items, batch
        once = partial(self.run, unet, [0])
        self.units = units_of(unet, names, once)
        self.names = [unit.name for unit in self.units]
        self.uses = uses_of(unet, self.names, once)

    def run(self, unet: nn.Module, places: Sequence[int]) -> Any:
        """Call one of the unets with some items."""
        items = self.items.batch(places)
        x, t, text = (tensor.to(self.device) for tensor in (items.x, items.t, items.text))
        return unet(x, t, encoder_hidden_states=text)

    @property
    def device(self) -> torch.device:
        """Where the unets are."""
        return next(self.unet.parameters()).device


class Recorder:
    """Makes the tapes of units one after another, in their order; it may begin anywhere.

    A unit of either unet is computed once for every item, when the first tape needs it: then the quantized unet's must
    be as it will stay.

    Args:
        tapes: the unets and their units.
        folder: of its files, removed by whoever made it.

    Raises:
        UserError: when the disk has no room for them.
    """

    def __init__(self, tapes: UnitTapes, folder: Path) -> None:
        self.tapes, self.folder = tapes, folder
        needed, free = most_kept(tapes.uses) * len(tapes.items), shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"{len(tapes.items)} items take up to {needed / GB:.1f} GB of disk while rounding is learned, "
                f"{free / GB:.1f} GB are free at {folder}: make room, or choose another paths.store "
                "or a smaller calibration.set.count"
            )
        self._made, self._float = (self._replay(kind) for kind in ("made", "float"))

    @contextmanager
    def tape(self, number: int) -> Iterator[Tape]:
        """Inputs of a unit from the quantized unet and its output from the float one, for as long as they are used."""
        tapes, name = self.tapes, self.tapes.names[number]
        ours, theirs = tapes.made.get_submodule(name), tapes.unet.get_submodule(name)
        with TemporaryDirectory(dir=self.folder) as folder:
            tape = Tape(Path(folder), len(tapes.items))
            for some in torch.arange(len(tapes.items)).split(tapes.batch):
                places = some.tolist()
                with self._made.playing(places, number):
                    given = caught_inputs(ours, partial(tapes.run, tapes.made, places))
                with self._float.playing(places, number + 1):
                    tape.record(places, given, caught_output(theirs, partial(tapes.run, tapes.unet, places)))
            self._made.done(number)
            self._float.done(number + 1)
            yield tape
        gc.collect()  # a trainer and what it trained hold each other, with a state of several times the unit's weights

    def _replay(self, kind: str) -> Replay:
        (folder := self.folder / kind).mkdir()
        unet = {"made": self.tapes.made, "float": self.tapes.unet}[kind]
        return Replay(unet, self.tapes.names, self.tapes.uses, folder, len(self.tapes.items))
