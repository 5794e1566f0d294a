"""Replay: units of a unet that are done give again what they gave, so that each is computed once for every item.

A unit's inputs depend on some outputs of units before it, by what the unet does between units: additions,
concatenations, normalizations. `last_readers` finds which by the autograd graph of one call that is cut at the units.
Outputs lie in files, and only as long as a unit that is not done reads them; where nothing will, zeros take their
place. What is between units is computed again in every call.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantbooth.diffusion.tape import mapped_rows

__all__ = ["Replay", "last_readers"]

Forward = Callable[..., Any]


class Replay:
    """A unet that is called again and again on the same items, further from time to time.

    Args:
        unet: of the units.
        names: of its units in the order of the call; each is called once.
        readers: what `last_readers` found.
        folder: of the files, removed by whoever made it.
        items: how many there are.
    """

    def __init__(self, unet: nn.Module, names: Sequence[str], readers: Sequence[int], folder: Path, items: int) -> None:
        self.unet, self.names, self.readers, self.folder, self.items = unet, names, readers, folder, items
        self._done = 0
        self._kept: dict[int, Tensor] = {}
        self._blank: dict[int, Tensor] = {}

    @contextmanager
    def playing(self, places: Sequence[int], end: int) -> Iterator[None]:
        """Within it a call with the items of these places computes, of the units before `end`, those not done yet."""
        with _forwards(self.unet, self.names[:end], partial(self._play, places)):
            yield

    def done(self, end: int) -> None:
        """Every item has seen the units before `end`."""
        self._done = end
        for number in [number for number in self._kept if self.readers[number] < end]:
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
            if self.readers[number] > number:
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


def last_readers(unet: nn.Module, names: Sequence[str], call: Callable[[], Any]) -> list[int]:
    """For each unit, the number of the last unit with inputs that its output reaches without passing through another.

    A unit that none reads has its own number.

    Args:
        unet: is called.
        names: of its units in the order of the call.
        call: runs the unet once.

    Raises:
        ValueError: for a unit that is called more than once.
    """
    readers, leaves = list(range(len(names))), dict[int, Tensor]()

    def cut(number: int, forward: Forward, *args: Any, **kwargs: Any) -> Tensor:
        if number in leaves:
            raise ValueError(f"a unit must be called once in a call of the unet, but {names[number]!r} is called again")
        read = _ancestors([value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)])
        for writer, leaf in leaves.items():
            if id(leaf) in read:
                readers[writer] = number
        with torch.no_grad():
            leaves[number] = forward(*args, **kwargs).detach()
        return leaves[number].requires_grad_().clone()  # a clone may be changed in place

    with torch.enable_grad(), _forwards(unet, names, cut):
        call()
    return readers


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
def _forwards(unet: nn.Module, names: Sequence[str], forward: Callable[..., Any]) -> Iterator[None]:
    """Within it these modules call `forward` with their number and their own forward before the arguments."""
    with ExitStack() as stack:
        for number, name in enumerate(names):
            module = unet.get_submodule(name)
            own = {key: value for key, value in vars(module).items() if key == "forward"}
            vars(module)["forward"] = partial(forward, number, module.forward)
            stack.callback(vars(module).update, own)
            stack.callback(vars(module).pop, "forward")
        yield
