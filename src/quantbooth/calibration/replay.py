"""Replay: what each unit is given and should give, every unit being computed once for every calibration item.

Replay: units of a denoiser that are done give again what they gave, so that each is computed once for every item.

A unit's inputs depend on some outputs of units before it, by what the denoiser does between units: additions,
concatenations, normalizations. `uses_of` finds which by the autograd graph of one call that is cut at the units.
Outputs lie in files, and only as long as a unit that is not done reads them; where nothing will, zeros take their
place. What is between units is computed again in every call.

What each unit is given by the quantized denoiser and should give by the float one, for a whole calibration set.
"""

import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from quantbooth.calibration.calibration_set import CalibrationSet
from quantbooth.calibration.tape import Tape, caught_inputs, caught_output, mapped_rows
from quantbooth.calibration.units import units_of
from quantbooth.diffusion.base import Base
from quantbooth.runtime.errors import UserError

__all__ = ["Recorder", "Replay", "UnitTapes", "Use", "most_kept", "uses_of"]

Forward = Callable[..., Any]


@dataclass
class Use:
    """What becomes of a unit's output.

    Attributes:
        reader: number of the last unit with inputs that it reaches without passing through another; the unit's own
            where none does.
        given: bytes of the unit's inputs for one item, and
        made: of its output.
    """

    reader: int
    given: int
    made: int


class Replay:
    """A denoiser that is called again and again on the same items, further from time to time.

    Args:
        denoiser: of the units.
        names: of its units in the order of the call; each is called once.
        uses: what `uses_of` found.
        folder: of the files, removed by whoever made it.
        items: how many there are.
    """

    def __init__(
        self, denoiser: nn.Module, names: Sequence[str], uses: Sequence[Use], folder: Path, items: int
    ) -> None:
        self.denoiser, self.names, self.uses, self.folder, self.items = denoiser, names, uses, folder, items
        self._done = 0
        self._kept: dict[int, Tensor] = {}
        self._blank: dict[int, Tensor] = {}

    @contextmanager
    def playing(self, places: Sequence[int], end: int) -> Iterator[None]:
        """Within it a call with the items of these places computes, of the units before `end`, those not done yet."""
        with _forwards(self.denoiser, self.names[:end], partial(self._play, places)):
            yield

    def done(self, end: int) -> None:
        """Every item has seen the units before `end`."""
        self._done = end
        for number in [number for number in self._kept if self.uses[number].reader < end]:
            del self._kept[number]
            self._path(number).unlink()

    @property
    def nbytes(self) -> int:
        """Of all files."""
        return sum(rows.nbytes for rows in self._kept.values())

    def _play(self, places: Sequence[int], number: int, forward: Forward, *args: Any, **kwargs: Any) -> Tensor:
        if number < self._done:
            return self._again(number, places)
        output: Tensor = forward(*args, **kwargs).contiguous()  # as a file will give it
        if number not in self._blank:
            self._blank[number] = output.new_zeros(()).expand(output.shape[1:])
            if self.uses[number].reader > number:
                self._kept[number] = mapped_rows(self._path(number), self.items, output)
        if number in self._kept:
            self._kept[number][list(places)] = output.to("cpu")
        return output

    def _again(self, number: int, places: Sequence[int]) -> Tensor:
        blank = self._blank[number]
        if number not in self._kept:
            return blank.new_zeros(len(places), *blank.shape)
        return self._kept[number][list(places)].to(blank.device)

    def _path(self, number: int) -> Path:
        return self.folder / f"output-{number:05d}.bin"


def uses_of(denoiser: nn.Module, names: Sequence[str], call: Callable[[], Any]) -> list[Use]:
    """What becomes of the output of each unit.

    Args:
        denoiser: is called.
        names: of its units in the order of the call.
        call: runs the denoiser once, with one item.

    Raises:
        ValueError: for a unit that is called more than once.
    """
    uses, leaves = list[Use](), dict[int, Tensor]()

    def cut(number: int, forward: Forward, *args: Any, **kwargs: Any) -> Tensor:
        if number in leaves:
            raise ValueError(
                f"a unit must be called once in a call of the denoiser, but {names[number]!r} is called again"
            )
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        read = _ancestors(given)
        for writer, leaf in leaves.items():
            if id(leaf) in read:
                uses[writer].reader = number
        with torch.no_grad():
            leaves[number] = forward(*args, **kwargs).detach()
        uses.append(Use(number, sum(tensor.nbytes for tensor in given), leaves[number].nbytes))
        return leaves[number].requires_grad_().clone()  # a clone may be changed in place

    with torch.enable_grad(), _forwards(denoiser, names, cut):
        call()
    return uses


def most_kept(uses: Sequence[Use]) -> int:
    """The most bytes an item takes in files: outputs still to be read, of two denoisers, and the tape of a unit."""
    return max(
        2 * sum(use.made for use in uses[: number + 1] if use.reader >= number) + uses[number].given + uses[number].made
        for number in range(len(uses))
    )


def _ancestors(tensors: Sequence[Tensor]) -> set[int]:
    """The ids of all leaves of the autograd graph above these tensors."""
    waiting, seen = [tensor.grad_fn for tensor in tensors], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [above for above, _ in node.next_functions]
    return {id(node.variable) for node in seen if hasattr(node, "variable")}


@contextmanager
def _forwards(denoiser: nn.Module, names: Sequence[str], forward: Callable[..., Any]) -> Iterator[None]:
    """Within it these modules call `forward` with their number and their own forward before the arguments."""
    with ExitStack() as stack:
        for number, name in enumerate(names):
            module = denoiser.get_submodule(name)
            own = {key: value for key, value in vars(module).items() if key == "forward"}
            vars(module)["forward"] = partial(forward, number, module.forward)
            stack.callback(vars(module).update, own)
            stack.callback(vars(module).pop, "forward")
        yield


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
