"""Replay: units of a denoiser that are done give again what they gave, so that each is computed once for every item.

A unit's inputs depend on some outputs of units before it, by what the denoiser does between units: additions,
concatenations, normalizations. `uses_of` finds which by the autograd graph of one call that is cut at the units.
Outputs lie in files, and only as long as a unit that is not done reads them; where nothing will, zeros take their
place. What is between units is computed again in every call.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantbooth.diffusion.tape import mapped_rows

__all__ = ["Replay", "Use", "most_kept", "uses_of"]

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
