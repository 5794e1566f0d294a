"""Reconstruction: the rounding of each block is learned until it gives what the float block gave, block after block.

    L = mean(sum_channels (block(x, W~) - y)^2) + weight sum R(V)

x is what the block is given when all blocks before it are quantized, y what the float block gives when none is. After
`warm_up` of the iterations R sets in, its beta falling along a line; at the end every weight is rounded hard. BRECQ
(arXiv 2102.05426), with the choices of Q-Diffusion (arXiv 2302.04304).
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
from quantbooth.quant.rounding import LearnedRounding
from quantbooth.quant.surgery import Replaced, Splits, like, replace_
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.options import number, whole
from quantbooth.store.progress import Progress

__all__ = ["AdaRoundCalibration", "BlockResult", "AdaRoundConfig", "Roundings"]

Codes = dict[str, UInt8[Tensor, "_out ..."]]


@dataclass(frozen=True)
class AdaRoundConfig:
    """How a block's rounding is learned.

    Attributes:
        iterations: optimizer steps.
        batch: items of a step.
        learning_rate: Adam's.
        penalty: weight of R.
        warm_up: fraction of the iterations without R.
        beta: of R, at first and in the end.
        seed: decides which items a step sees.

    Raises:
        UserError: naming the option that is not such a number.
    """

    iterations: int
    batch: int
    learning_rate: float
    penalty: float
    warm_up: float
    beta: Sequence[float]
    seed: int

    def __post_init__(self) -> None:
        for name, least in (("iterations", 1), ("batch", 1), ("seed", 0)):
            whole(f"calibration.rounding.{name}", getattr(self, name), least=least)
        number("calibration.rounding.learning_rate", self.learning_rate, least=0)
        number("calibration.rounding.penalty", self.penalty, least=0)
        number("calibration.rounding.warm_up", self.warm_up, least=0, below=1)
        if not isinstance(self.beta, Sequence) or len(self.beta) != 2:
            raise UserError(f"calibration.rounding.beta must be two numbers, the first and the last, got {self.beta!r}")
        for beta in self.beta:
            number("calibration.rounding.beta", beta, least=0)

    def beta_at(self, step: int) -> float | None:
        """beta of a step, None before R sets in."""
        start = self.warm_up * self.iterations
        if step < start:
            return None
        first, last = self.beta
        return last + (first - last) * (1 - (step - start) / (self.iterations - start))


class Roundings(Parameterization):
    """The weights of a block's layers, rounded as their V say (AdaRound, arXiv 2004.10568).

    Args:
        roundings: of weights, by their names within the block ("conv1.weight").
        config: how they are learned.
    """

    purpose = "reconstruct"

    def __init__(self, roundings: Mapping[str, LearnedRounding], config: AdaRoundConfig) -> None:
        super().__init__()
        self.config, self.weights, self.roundings = config, tuple(roundings), nn.ModuleList(roundings.values())
        self.nearest = self.codes()

    def tensors(self) -> Tensors:
        return {name: rounding.weight() for name, rounding in self._named}

    def rounded(self, codes: Codes) -> Tensors:
        """Return the weights that codes stand for."""
        return {name: (codes[name] - rounding.zero) * rounding.scale for name, rounding in self._named}

    def codes(self) -> Codes:
        """Return the codes as they are learned now, by the name of the weight."""
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
"""Of a block's output over the whole calibration set, with the nearest codes and with those that were learned."""


@dataclass(frozen=True)
class BlockResult:
    """A block that is done: its errors by ERRORS."""

    block: Block
    errors: Mapping[str, float]


class AdaRoundCalibration:
    """Makes a quantized denoiser of a float one, which stays as it is.

    The quantized denoiser shares every float tensor it still has with the float one. Codes are the learned ones where
    they bring the block nearer to the float block than the nearest codes do, else those.

    Args:
        base: with the float one.
        names: layers to quantize.
        splits: which of them have a scale for each part of their inputs.
        search: finds scales.
        config: how rounding is learned.
        items: what the denoiser is run on.
        trainer: makes the trainer of one block from what it does, in words.
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
        """Do every block that `progress` does not have; `note` is told of each with its number."""
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
        """The state of the block's quantized layers by the names of layers, and its errors."""
        affine = {name: self._empty(name).form.fit(self._weight(name), self.search) for name in block.layers}
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
        return self.pair.device

    def _weight(self, name: str) -> Float[Tensor, "out ..."]:
        return self.denoiser.get_submodule(name).get_parameter("weight").detach()


def _sharing(denoiser: nn.Module) -> nn.Module:
    """Another denoiser of the same tensors."""
    tensors = chain(denoiser.parameters(), denoiser.buffers())
    return copy.deepcopy(denoiser, {id(tensor): tensor for tensor in tensors})


def _key(block: Block, layer: str) -> str:
    """The name of a layer's weight within its block, which may be the layer itself."""
    return f"{layer}.weight".removeprefix(f"{block.name}.")


def _states(layers: Mapping[str, QuantizedLayer]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}
