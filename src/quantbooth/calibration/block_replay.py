"""Replay: what each block is given and should give, every block being computed once for every calibration item.

Replay: blocks of a denoiser that are done give again what they gave, so that each is computed once for every item.

A block's inputs depend on some outputs of blocks before it, by what the denoiser does between blocks: additions,
concatenations, normalizations. `liveness_of` finds which by the autograd graph of one call that is cut at the blocks.
Outputs lie in files, and only as long as a block that is not done reads them; where nothing will, zeros take their
place. What is between blocks is computed again in every call.

What each block is given by the quantized denoiser and should give by the float one, for a whole calibration set.
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

from quantbooth.calibration.block_cache import BlockCache, capture_inputs, capture_output, mapped_rows
from quantbooth.calibration.blocks import blocks_of
from quantbooth.calibration.calibration_set import CalibrationSet
from quantbooth.diffusion.base import Base
from quantbooth.runtime.errors import UserError

__all__ = ["BlockRecorder", "CachedForward", "DenoiserPair", "Liveness", "peak_cache_bytes", "liveness_of"]

Forward = Callable[..., Any]


@dataclass
class Liveness:
    """How long a block's output is needed.

    Attributes:
        last_reader: number of the last block whose inputs depend on it directly; the block's own where there is none.
        input_bytes: of the block's inputs for one item.
        output_bytes: of its output for one item.
    """

    last_reader: int
    input_bytes: int
    output_bytes: int


class CachedForward:
    """A denoiser that is called again and again on the same items, further from time to time.

    Args:
        denoiser: of the blocks.
        names: of its blocks in the order of the call; each is called once.
        uses: what `liveness_of` found.
        folder: of the files, removed by whoever made it.
        items: how many there are.
    """

    def __init__(
        self, denoiser: nn.Module, names: Sequence[str], liveness: Sequence[Liveness], folder: Path, items: int
    ) -> None:
        self.denoiser, self.names, self.liveness, self.folder, self.items = denoiser, names, liveness, folder, items
        self._done = 0
        self._cached: dict[int, Tensor] = {}
        self._empty: dict[int, Tensor] = {}

    @contextmanager
    def running(self, places: Sequence[int], end: int) -> Iterator[None]:
        """Within it a call with the items of these places computes, of the blocks before `end`, those not done yet."""
        with _forwards(self.denoiser, self.names[:end], partial(self._forward, places)):
            yield

    def finish(self, end: int) -> None:
        """Every item has seen the blocks before `end`."""
        self._done = end
        for number in [number for number in self._cached if self.liveness[number].last_reader < end]:
            del self._cached[number]
            self._path(number).unlink()

    @property
    def nbytes(self) -> int:
        """Of all files."""
        return sum(rows.nbytes for rows in self._cached.values())

    def _forward(self, places: Sequence[int], number: int, forward: Forward, *args: Any, **kwargs: Any) -> Tensor:
        if number < self._done:
            return self._from_cache(number, places)
        output: Tensor = forward(*args, **kwargs).contiguous()  # as a file will give it
        if number not in self._empty:
            self._empty[number] = output.new_zeros(()).expand(output.shape[1:])
            if self.liveness[number].last_reader > number:
                self._cached[number] = mapped_rows(self._path(number), self.items, output)
        if number in self._cached:
            self._cached[number][list(places)] = output.to("cpu")
        return output

    def _from_cache(self, number: int, places: Sequence[int]) -> Tensor:
        blank = self._empty[number]
        if number not in self._cached:
            return blank.new_zeros(len(places), *blank.shape)
        return self._cached[number][list(places)].to(blank.device)

    def _path(self, number: int) -> Path:
        return self.folder / f"output-{number:05d}.bin"


def liveness_of(denoiser: nn.Module, names: Sequence[str], call: Callable[[], Any]) -> list[Liveness]:
    """What becomes of the output of each block.

    Args:
        denoiser: is called.
        names: of its blocks in the order of the call.
        call: runs the denoiser once, with one item.

    Raises:
        ValueError: for a block that is called more than once.
    """
    liveness, leaves = list[Liveness](), dict[int, Tensor]()

    def cut(number: int, forward: Forward, *args: Any, **kwargs: Any) -> Tensor:
        if number in leaves:
            raise ValueError(
                f"a block must be called once in a call of the denoiser, but {names[number]!r} is called again"
            )
        inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        read = _ancestors(inputs)
        for writer, leaf in leaves.items():
            if id(leaf) in read:
                liveness[writer].last_reader = number
        with torch.no_grad():
            leaves[number] = forward(*args, **kwargs).detach()
        liveness.append(Liveness(number, sum(tensor.nbytes for tensor in inputs), leaves[number].nbytes))
        return leaves[number].requires_grad_().clone()  # a clone may be changed in place

    with torch.enable_grad(), _forwards(denoiser, names, cut):
        call()
    return liveness


def peak_cache_bytes(liveness: Sequence[Liveness]) -> int:
    """The most bytes an item takes in files: outputs still to be read, of two denoisers, and the cache of a block."""
    return max(
        2 * sum(use.output_bytes for use in liveness[: number + 1] if use.last_reader >= number)
        + liveness[number].input_bytes
        + liveness[number].output_bytes
        for number in range(len(liveness))
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


class DenoiserPair:
    """A base with two denoisers of one architecture, run on the same items.

    Args:
        base: with the float one.
        quantized: the other, as far as it is.
        names: layers to learn; `blocks` holds every one of them, in the order of the call.
        items: what both are run on.
        batch: items of a call.
    """

    def __init__(self, base: Base, quantized: Base, names: Sequence[str], items: CalibrationSet, batch: int) -> None:
        self.base, self.quantized, self.items, self.batch = base, quantized, items, batch
        once = partial(self.run, base, [0])
        self.blocks = blocks_of(base.denoiser, base.blocks(), names, once)
        self.names = [block.name for block in self.blocks]
        self.liveness = liveness_of(base.denoiser, self.names, once)

    def run(self, base: Base, places: Sequence[int]) -> Any:
        """Call one of the denoisers with some items."""
        items = self.items.batch(places)
        return base.predict(items.x.to(self.device), items.t.to(self.device), items.conditioning.to(self.device))

    @property
    def device(self) -> torch.device:
        """Where the denoisers are."""
        return next(self.base.denoiser.parameters()).device


class BlockRecorder:
    """Makes the caches of blocks one after another, in their order; it may begin anywhere.

    A block of either denoiser is computed once for every item, when the first cache needs it: then the quantized one's
    must be as it will stay.

    Args:
        caches: the denoisers and their blocks.
        folder: of its files, removed by whoever made it.

    Raises:
        UserError: when the disk has no room for them.
    """

    def __init__(self, pair: DenoiserPair, folder: Path) -> None:
        self.pair, self.folder = pair, folder
        needed, free = peak_cache_bytes(pair.liveness) * len(pair.items), shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"{len(pair.items)} items take up to {needed / GB:.1f} GB of disk while rounding is learned, "
                f"{free / GB:.1f} GB are free at {folder}: make room, or choose another paths.store "
                "or a smaller calibration.set.count"
            )
        self._quantized, self._float = (self._cached_forward(kind) for kind in ("quantized", "float"))

    @contextmanager
    def cache(self, number: int) -> Iterator[BlockCache]:
        """Inputs of a block from the quantized denoiser and its output from the float one, while they are used."""
        pair, name = self.pair, self.pair.names[number]
        ours, theirs = pair.quantized.denoiser.get_submodule(name), pair.base.denoiser.get_submodule(name)
        with TemporaryDirectory(dir=self.folder) as folder:
            cache = BlockCache(Path(folder), len(pair.items))
            for some in torch.arange(len(pair.items)).split(pair.batch):
                places = some.tolist()
                with self._quantized.running(places, number):
                    call = capture_inputs(ours, partial(pair.run, pair.quantized, places))
                with self._float.running(places, number + 1):
                    cache.record(places, call, capture_output(theirs, partial(pair.run, pair.base, places)))
            self._quantized.finish(number)
            self._float.finish(number + 1)
            yield cache
        gc.collect()  # a trainer and what it trained hold each other, with a state of several times the block's weights

    def _cached_forward(self, kind: str) -> CachedForward:
        (folder := self.folder / kind).mkdir()
        base = {"quantized": self.pair.quantized, "float": self.pair.base}[kind]
        return CachedForward(base.denoiser, self.pair.names, self.pair.liveness, folder, len(self.pair.items))
