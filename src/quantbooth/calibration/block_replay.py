"""Forwards of a denoiser with cached block outputs, so that each block runs once per calibration item.

A block's inputs depend on the outputs of some blocks before it, through additions, concatenations and normalizations
between blocks. `liveness_of` finds these dependencies in the autograd graph of one call, cut at the blocks. Outputs are
kept in files for as long as an unfinished block needs them; outputs that no block needs are replaced by zeros. What is
between blocks is computed in every call.
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
from torch.utils._pytree import tree_map_only

from quantbooth.calibration.block_cache import BlockCache, Rows, capture_inputs, capture_output, tensors_in
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
        input_bytes: bytes of the block's inputs for one item.
        output_bytes: bytes of its output for one item.
    """

    last_reader: int
    input_bytes: int
    output_bytes: int


class CachedForward:
    """A denoiser that is called several times on the same items, and reuses the outputs of finished blocks.

    Args:
        denoiser: the denoiser.
        names: of its blocks in the order of the call; each is called once.
        liveness: the result of `liveness_of`.
        folder: for the files; the caller removes it.
        items: the number of items.
    """

    def __init__(
        self, denoiser: nn.Module, names: Sequence[str], liveness: Sequence[Liveness], folder: Path, items: int
    ) -> None:
        self.denoiser, self.names, self.liveness, self.folder, self.items = denoiser, names, liveness, folder, items
        self._done = 0
        self._cached: dict[int, Rows] = {}
        self._empty: dict[int, Any] = {}

    @contextmanager
    def running(self, indices: Sequence[int], end: int) -> Iterator[None]:
        """Within the context a call with these items computes only the unfinished blocks before `end`."""
        with _forwards(self.denoiser, self.names[:end], partial(self._forward, indices)):
            yield

    def finish(self, end: int) -> None:
        """Mark the blocks before `end` as computed for every item."""
        self._done = end
        for number in [number for number in self._cached if self.liveness[number].last_reader < end]:
            self._cached.pop(number).remove()

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(rows.nbytes for rows in self._cached.values())

    def _forward(self, indices: Sequence[int], number: int, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        if number < self._done:
            return self._from_cache(number, indices)
        output = tree_map_only(Tensor, Tensor.contiguous, forward(*args, **kwargs))  # as it is read from a file
        if number not in self._empty:
            self._empty[number] = tree_map_only(Tensor, lambda y: y.new_zeros(()).expand(y.shape[1:]), output)
            if self.liveness[number].last_reader > number:
                self._cached[number] = Rows(self.folder, f"output-{number:05d}", self.items)
        if number in self._cached:
            self._cached[number].record(indices, output)
        return output

    def _from_cache(self, number: int, indices: Sequence[int]) -> Any:
        blank = self._empty[number]
        if number not in self._cached:
            return tree_map_only(Tensor, lambda y: y.new_zeros(len(indices), *y.shape), blank)
        return self._cached[number].batch(indices, tensors_in(blank)[0].device)


def liveness_of(denoiser: nn.Module, names: Sequence[str], call: Callable[[], Any]) -> list[Liveness]:
    """Return how long the output of each block is needed.

    Args:
        denoiser: the denoiser.
        names: of its blocks in the order of the call.
        call: runs the denoiser once, with one item.

    Raises:
        ValueError: for a block that is called more than once.
    """
    liveness, leaves = list[Liveness](), dict[int, list[Tensor]]()

    def cut(number: int, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        if number in leaves:
            raise ValueError(
                f"a block must be called once in a call of the denoiser, but {names[number]!r} is called again"
            )
        inputs = tensors_in((args, kwargs))
        read = _ancestors(inputs)
        for writer, written in leaves.items():
            if any(id(leaf) in read for leaf in written):
                liveness[writer].last_reader = number
        with torch.no_grad():
            output = tree_map_only(Tensor, Tensor.detach, forward(*args, **kwargs))
        leaves[number] = [leaf.requires_grad_() for leaf in tensors_in(output)]
        liveness.append(Liveness(number, *(sum(one.nbytes for one in some) for some in (inputs, leaves[number]))))
        return tree_map_only(Tensor, Tensor.clone, output)  # a clone may be modified in place

    with torch.enable_grad(), _forwards(denoiser, names, cut):
        call()
    return liveness


def peak_cache_bytes(liveness: Sequence[Liveness]) -> int:
    """Return the most bytes per item in files: live outputs of two denoisers, and the cache of one block."""
    return max(
        2 * sum(use.output_bytes for use in liveness[: number + 1] if use.last_reader >= number)
        + liveness[number].input_bytes
        + liveness[number].output_bytes
        for number in range(len(liveness))
    )


def _ancestors(tensors: Sequence[Tensor]) -> set[int]:
    """Return the ids of all leaves of the autograd graph above these tensors."""
    waiting, seen = [tensor.grad_fn for tensor in tensors], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [above for above, _ in node.next_functions]
    return {id(node.variable) for node in seen if hasattr(node, "variable")}


@contextmanager
def _forwards(denoiser: nn.Module, names: Sequence[str], forward: Callable[..., Any]) -> Iterator[None]:
    """Within the context these modules call `forward(number, own_forward, *args, **kwargs)`."""
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
    """A float and a quantized denoiser of one architecture, run on the same items.

    Args:
        base: the float base.
        quantized: the base with the quantized denoiser, some blocks of which may still be float.
        names: layers to learn; `blocks` contains each of them, in the order of the call.
        items: the calibration set.
        batch: items per call.
    """

    def __init__(self, base: Base, quantized: Base, names: Sequence[str], items: CalibrationSet, batch: int) -> None:
        self.base, self.quantized, self.items, self.batch = base, quantized, items, batch
        once = partial(self.run, base, [0])
        self.blocks = blocks_of(base.denoiser, base.blocks(), names, once)
        self.names = [block.name for block in self.blocks]
        self.liveness = liveness_of(base.denoiser, self.names, once)

    def run(self, base: Base, indices: Sequence[int]) -> Any:
        """Call one of the denoisers with some items."""
        items = self.items.batch(indices)
        return base.predict(items.x.to(self.device), items.t.to(self.device), items.conditioning.to(self.device))

    @property
    def device(self) -> torch.device:
        """The device of both denoisers."""
        return next(self.base.denoiser.parameters()).device


class BlockRecorder:
    """Makes the caches of blocks in their order, from any block on.

    Each block of either denoiser runs once per item, when the first cache needs its output; the quantized block must be
    final by then.

    Args:
        pair: the denoisers and their blocks.
        folder: for the files; the caller removes it.

    Raises:
        UserError: when the disk is too small.
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
        """Yield a block's inputs from the quantized denoiser and outputs from the float one; then remove the files."""
        pair, name = self.pair, self.pair.names[number]
        ours, theirs = pair.quantized.denoiser.get_submodule(name), pair.base.denoiser.get_submodule(name)
        with TemporaryDirectory(dir=self.folder) as folder:
            cache = BlockCache(Path(folder), len(pair.items))
            for some in torch.arange(len(pair.items)).split(pair.batch):
                indices = some.tolist()
                with self._quantized.running(indices, number):
                    call = capture_inputs(ours, partial(pair.run, pair.quantized, indices))
                with self._float.running(indices, number + 1):
                    cache.record(indices, call, capture_output(theirs, partial(pair.run, pair.base, indices)))
            self._quantized.finish(number)
            self._float.finish(number + 1)
            yield cache
        gc.collect()  # frees the cycle of trainer and module, with optimizer state of several times the block's weights

    def _cached_forward(self, kind: str) -> CachedForward:
        (folder := self.folder / kind).mkdir()
        base = {"quantized": self.pair.quantized, "float": self.pair.base}[kind]
        return CachedForward(base.denoiser, self.pair.names, self.pair.liveness, folder, len(self.pair.items))
