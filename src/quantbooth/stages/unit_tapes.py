"""What each unit is given by the quantized denoiser and should give by the float one, for a whole calibration set."""

import gc
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from quantbooth.artifacts.calibration_set import CalibrationSet
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.replay import Replay, most_kept, uses_of
from quantbooth.diffusion.tape import Tape
from quantbooth.diffusion.taping import caught_inputs, caught_output
from quantbooth.diffusion.units import units_of
from quantbooth.errors import UserError

__all__ = ["Recorder", "UnitTapes"]

GB = 1e9


class UnitTapes:
    """A base with two denoisers of one architecture, run on the same items.

    Args:
        base: with the float one.
        made: the quantized one, as far as it is.
        names: layers to learn; `units` holds every one of them, in the order of the call.
        items: what both are run on.
        batch: items of a call.
    """

    def __init__(self, base: Base, made: Base, names: Sequence[str], items: CalibrationSet, batch: int) -> None:
        self.base, self.made, self.items, self.batch = base, made, items, batch
        once = partial(self.run, base, [0])
        self.units = units_of(base.denoiser, base.blocks(), names, once)
        self.names = [unit.name for unit in self.units]
        self.uses = uses_of(base.denoiser, self.names, once)

    def run(self, base: Base, places: Sequence[int]) -> Any:
        """Call one of the denoisers with some items."""
        items = self.items.batch(places)
        return base.predict(items.x.to(self.device), items.t.to(self.device), items.conditioning.to(self.device))

    @property
    def device(self) -> torch.device:
        """Where the denoisers are."""
        return next(self.base.denoiser.parameters()).device


class Recorder:
    """Makes the tapes of units one after another, in their order; it may begin anywhere.

    A unit of either denoiser is computed once for every item, when the first tape needs it: then the quantized one's
    must be as it will stay.

    Args:
        tapes: the denoisers and their units.
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
        """Inputs of a unit from the quantized denoiser and its output from the float one, while they are used."""
        tapes, name = self.tapes, self.tapes.names[number]
        ours, theirs = tapes.made.denoiser.get_submodule(name), tapes.base.denoiser.get_submodule(name)
        with TemporaryDirectory(dir=self.folder) as folder:
            tape = Tape(Path(folder), len(tapes.items))
            for some in torch.arange(len(tapes.items)).split(tapes.batch):
                places = some.tolist()
                with self._made.playing(places, number):
                    given = caught_inputs(ours, partial(tapes.run, tapes.made, places))
                with self._float.playing(places, number + 1):
                    tape.record(places, given, caught_output(theirs, partial(tapes.run, tapes.base, places)))
            self._made.done(number)
            self._float.done(number + 1)
            yield tape
        gc.collect()  # a trainer and what it trained hold each other, with a state of several times the unit's weights

    def _replay(self, kind: str) -> Replay:
        (folder := self.folder / kind).mkdir()
        base = {"made": self.tapes.made, "float": self.tapes.base}[kind]
        return Replay(base.denoiser, self.tapes.names, self.tapes.uses, folder, len(self.tapes.items))
