"""Block-wise AdaRound: learn the rounding of each block's weights so that its output matches the float block's.

    L = mean(sum_channels (block(x, W~) - y)^2) + weight sum R(V)

x is the input of the block when all blocks before it are quantized, y the output of the float block. R starts after
`warm_up` of the iterations and its beta falls linearly; at the end every weight is rounded hard. BRECQ (arXiv
2102.05426), with the choices of Q-Diffusion (arXiv 2302.04304).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float, UInt8
from lightning.pytorch import Trainer
from torch import Tensor, nn

from quantbooth.calibration.block_cache import BlockCache
from quantbooth.calibration.block_replay import BlockRecorder, DenoiserPair
from quantbooth.calibration.block_training import BlockTraining, Parameterization, Tensors
from quantbooth.calibration.blocks import Block
from quantbooth.calibration.calibration_set import CalibrationSet
from quantbooth.diffusion.base import Base
from quantbooth.quant.layers import QuantizedLayer
from quantbooth.quant.observers import ScaleSearch
from quantbooth.quant.packed_weight import Affine
from quantbooth.quant.rounding import LearnedRounding
from quantbooth.quant.surgery import Replaced, Splits, like, of_layer, replace_
from quantbooth.store.progress import Progress

__all__ = ["AdaRoundCalibration", "BlockResult", "AdaRoundConfig", "Roundings"]

Codes = dict[str, UInt8[Tensor, "_out ..."]]


@dataclass(frozen=True)
class AdaRoundConfig:
    """The options for learning the rounding of a block.

    Attributes:
        iterations: optimizer steps.
        batch: items per step.
        learning_rate: of Adam.
        penalty: weight of R.
        warm_up: fraction of the iterations without R.
        beta: of R, at the first and the last step.
        seed: decides the items of each step.
    """

    iterations: int
    batch: int
    learning_rate: float
    penalty: float
    warm_up: float
    beta: Sequence[float]
    seed: int

    def beta_at(self, step: int) -> float | None:
        """Return beta at a step, None before R starts."""
        start = self.warm_up * self.iterations
        if step < start:
            return None
        first, last = self.beta
        return last + (first - last) * (1 - (step - start) / (self.iterations - start))


class Roundings(Parameterization):
    """The weights of a block's layers, rounded by their V (AdaRound, arXiv 2004.10568).

    Args:
        roundings: of weights, by their names in the block ("conv1.weight").
        config: the options.
    """

    purpose = "reconstruct"

    def __init__(self, roundings: Mapping[str, LearnedRounding], config: AdaRoundConfig) -> None:
        super().__init__()
        self.config, self.weights, self.roundings = config, tuple(roundings), nn.ModuleList(roundings.values())
        self.nearest = self.codes()

    def tensors(self) -> Tensors:
        return {name: rounding.weight() for name, rounding in self._named}

    def rounded(self, codes: Codes) -> Tensors:
        """Return the weights for codes."""
        return {name: (codes[name] - rounding.zero) * rounding.scale for name, rounding in self._named}

    def codes(self) -> Codes:
        """Return the current codes, by the name of the weight."""
        return {name: rounding.codes() for name, rounding in self._named}

    def optimizers(self) -> Any:
        return torch.optim.Adam([rounding.v for _, rounding in self._named], lr=self.config.learning_rate)

    def distance(self, gap: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        return gap.square()

    def penalty(self, step: int) -> Float[Tensor, ""] | None:
        beta = self.config.beta_at(step)
        if beta is None:
            return None
        return self.config.penalty * torch.stack([rounding.penalty(beta) for _, rounding in self._named]).sum()

    @property
    def _named(self) -> list[tuple[str, LearnedRounding]]:
        return list(zip(self.weights, self.roundings, strict=True))  # type: ignore[arg-type]  # all are roundings


ERRORS = ("nearest", "learned")
"""Errors of a block over the calibration set, with the nearest codes and with the learned ones."""


@dataclass(frozen=True)
class BlockResult:
    """A finished block and its errors by ERRORS."""

    block: Block
    errors: Mapping[str, float]


class AdaRoundCalibration:
    """Quantizes a copy of a float denoiser block by block.

    The copy shares all remaining float tensors with the original, which is not changed. A block uses the learned codes
    if they give a smaller error than rounding to nearest.

    Args:
        base: the float base.
        names: layers to quantize.
        splits: which of them have a scale per part of their inputs.
        search: finds scales.
        config: the options of AdaRound.
        items: the calibration set.
        trainer: returns the trainer of one block, given the text of its progress bar.
    """

    def __init__(
        self,
        base: Base,
        names: Sequence[str],
        splits: Splits,
        search: ScaleSearch,
        config: AdaRoundConfig,
        items: CalibrationSet,
        trainer: Callable[[str], Trainer],
    ) -> None:
        self.denoiser, quantized = base.denoiser, _sharing(base.denoiser)
        self.quantized = base.with_denoiser(quantized)
        self.splits, self.search, self.config, self.trainer = splits, search, config, trainer
        self.replaced: list[Replaced] = []
        self.pair = DenoiserPair(base, self.quantized, names, items, 4 * config.batch)
        self.blocks = self.pair.blocks

    def run(self, progress: Progress, note: Callable[[int, BlockResult], Any]) -> None:
        """Quantize every block that is not in `progress`; `note` is called with each block's number and result."""
        with progress.scratch() as folder:
            recorder = BlockRecorder(self.pair, folder)
            for number, block in enumerate(self.blocks):
                found = progress.read(number)
                if found is None:
                    with recorder.cache(number) as cache:
                        found = self._learn_block(block, cache, f"rounding block {number + 1} of {len(self.blocks)}")
                    progress.write(number, found)
                self._put(block, found)
                note(number, BlockResult(block, {name: float(found[name]) for name in ERRORS}))

    def _learn_block(self, block: Block, cache: BlockCache, what: str) -> dict[str, Tensor]:
        """Return the state of the block's quantized layers by layer name, and its errors."""
        affine = {name: self._fit(name) for name in block.layers}
        roundings = {_key(block, name): self._rounding(name, *affine[name]) for name in block.layers}
        learned, module = Roundings(roundings, self.config), self.quantized.denoiser.get_submodule(block.name)
        training = BlockTraining(block.name, module, learned, cache, self.config)
        training.train_by(self.trainer(what))
        candidates = {"nearest": learned.nearest, "learned": learned.codes()}
        errors = {name: training.error_of(learned.rounded(codes)) for name, codes in candidates.items()}
        codes = candidates[min(errors, key=errors.__getitem__)]
        layers = {name: self._filled(name, codes[_key(block, name)], *affine[name]) for name in block.layers}
        return _states(layers) | {name: torch.tensor(error) for name, error in errors.items()}

    def _put(self, block: Block, found: Mapping[str, Tensor]) -> None:
        for name in block.layers:
            layer = self._empty(name)
            layer.load_state_dict({key: found[f"{name}.{key}"] for key in layer.state_dict()}, assign=True)
            self.replaced.append(replace_(self.quantized.denoiser, name, layer.to(self.device)))

    def _fit(self, name: str) -> Affine:
        with of_layer(name):
            return self._empty(name).form.fit(self._weight(name), self.search)

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
        """The device of both denoisers."""
        return self.pair.device

    def _weight(self, name: str) -> Float[Tensor, "out ..."]:
        return self.denoiser.get_submodule(name).get_parameter("weight").detach()


def _sharing(denoiser: nn.Module) -> nn.Module:
    """Return a copy of the denoiser that shares its tensors."""
    tensors = chain(denoiser.parameters(), denoiser.buffers())
    return copy.deepcopy(denoiser, {id(tensor): tensor for tensor in tensors})


def _key(block: Block, layer: str) -> str:
    """Return the name of a layer's weight in its block, which may be the layer itself."""
    return f"{layer}.weight".removeprefix(f"{block.name}.")


def _states(layers: Mapping[str, QuantizedLayer]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}
