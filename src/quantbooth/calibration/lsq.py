"""Block-wise LSQ: learn the activation scales of each block so that its output matches the float block's.

    L = mean(sum_channels |block(x, s) - y|^p),    s = s0 exp(r)

x is the input of the block when all blocks before it are quantized, y the output of the float block; s0 is the scale of
the observed range. r is learned, so an Adam step changes every scale by the same factor, and no scale becomes negative.
LSQ (arXiv 1902.08153) gives dL/ds; block by block with p = 2.4, Adam and cosine decay as in Q-Diffusion (arXiv
2302.04304), which learns s itself.

All ranges are observed first. Each block is learned when all weights and all blocks before it are quantized, as in
Q-Diffusion.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Trainer
from torch import Tensor, nn

from quantbooth.calibration.block_cache import BlockCache
from quantbooth.calibration.block_replay import BlockRecorder, DenoiserPair
from quantbooth.calibration.block_training import BlockTraining, Parameterization, Tensors
from quantbooth.calibration.blocks import Block
from quantbooth.calibration.calibration_set import CalibrationSet
from quantbooth.calibration.fake_quantizers import fake_quantizers, insert_fake_quantizers_, observe_ranges
from quantbooth.diffusion.base import Base
from quantbooth.quant.activations import ActivationBits, ActivationQuantizer
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.observers import MovingAverageMinMaxObserver
from quantbooth.runtime.lightning import Loop
from quantbooth.store.progress import Progress

__all__ = ["LSQCalibration", "LSQ_ERRORS", "Scales", "LSQConfig"]


@dataclass(frozen=True)
class LSQConfig:
    """The options for observing activation ranges and learning scales.

    Attributes:
        momentum: of the moving-average ranges.
        batch: items per batch.
        iterations: optimizer steps of each block; 0 uses the observed ranges.
        learning_rate: of Adam at the first step, for a scale relative to itself.
        lp_norm: p.
        seed: decides the order of the observed items, and the items of each step.
    """

    momentum: float
    batch: int
    iterations: int
    learning_rate: float
    lp_norm: float
    seed: int


class Scales(Parameterization):
    """The scales s0 exp(r) of a block's quantizers, initialized as s0 (LSQ, arXiv 1902.08153).

    Args:
        quantizers: of the block, by their names in it.
        config: the options.
    """

    purpose = "steps of"

    def __init__(self, quantizers: Mapping[str, ActivationQuantizer], config: LSQConfig) -> None:
        super().__init__()
        self.config = config
        self.start: Tensors = {f"{point}.scale": quantizer.scale.clone() for point, quantizer in quantizers.items()}
        self.r = nn.ParameterList(torch.zeros_like(scale) for scale in self.start.values())

    def tensors(self) -> Tensors:
        return {name: s0 * r.exp() for (name, s0), r in zip(self.start.items(), self.r, strict=True)}

    def optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.r, lr=self.config.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, self.config.iterations))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def distance(self, gap: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        return gap.abs().pow(self.config.lp_norm)


LSQ_ERRORS = ("activations_watched", "activations_learned")
"""Errors of a block over the calibration set, with the scales of the observed ranges and with the learned ones."""

Note = Callable[[int, Block, Mapping[str, float]], Any]


@dataclass(frozen=True)
class LSQCalibration:
    """Quantizes the activations of a denoiser with quantized weights.

    A block uses the learned scales if they give a smaller error than those of the observed ranges.

    Attributes:
        quantized: the base with the quantized denoiser.
        bits: of its activations.
        config: the options of LSQ.
        items: the calibration set.
        loop: runs the observers.
        trainer: returns the trainer of one block, given the text of its progress bar.
    """

    quantized: Base
    bits: ActivationBits
    config: LSQConfig
    items: CalibrationSet
    loop: Loop
    trainer: Callable[[str], Trainer]

    def run(self, progress: Progress, base: Callable[[], Base], note: Note) -> dict[str, ActivationBits]:
        """Do the parts that are not in `progress`: part 0 are the ranges, part k the scales of block k.

        Args:
            progress: of this work alone.
            base: returns the base with the float denoiser; called only if scales are learned.
            note: called with each block's number, from 0, the block, and its errors by LSQ_ERRORS.

        Returns:
            The bits of the attention modules, by their names.
        """
        device, found = next(self.quantized.denoiser.parameters()).device, progress.read(0)
        if found is None:
            found = self._observed_scales()
            progress.write(0, found)
        attentions = insert_fake_quantizers_(
            self.quantized.denoiser, partial(ActivationQuantizer, self.bits.inputs, device=device), self.bits.softmax
        )
        for name, quantizer in self._quantizers().items():
            quantizer.load_state_dict({key: found[f"{name}.{key}"] for key in quantizer.state_dict()})
        if self.config.iterations:
            self._learn(progress, base(), note)
        return dict.fromkeys(attentions, self.bits)

    def _observed_scales(self) -> dict[str, Tensor]:
        """Return the scales and zero points of all observed ranges, by the names of the denoiser's buffers."""
        insert_fake_quantizers_(
            self.quantized.denoiser, partial(MovingAverageMinMaxObserver, self.config.momentum), self.bits.softmax
        )
        observe_ranges(self.quantized, self.items, self.config.seed, self.config.batch, self.loop)
        ranges = {
            name: point
            for name, point in fake_quantizers(self.quantized.denoiser).items()
            if isinstance(point, MovingAverageMinMaxObserver)
        }
        states = {name: point.quantizer(self.bits.inputs).state_dict() for name, point in ranges.items()}
        return {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}

    def _learn(self, progress: Progress, base: Base, note: Note) -> None:
        base.denoiser.to(next(self.quantized.denoiser.parameters()).device)
        names = [name for name, _ in quantized_layers(self.quantized.denoiser)]
        pair = DenoiserPair(base, self.quantized, names, self.items, 4 * self.config.batch)
        with progress.scratch() as folder:
            recorder = BlockRecorder(pair, folder)
            for number, block in enumerate(pair.blocks):
                found = progress.read(number + 1)
                if found is None:
                    with recorder.cache(number) as cache:
                        what = f"activations of block {number + 1} of {len(pair.blocks)}"
                        found = self._learn_block(block, cache, what)
                    progress.write(number + 1, found)
                for name, quantizer in self._quantizers(block.name).items():
                    quantizer.scale.copy_(found[f"{name}.scale"])
                note(number, block, {name: float(found[name]) for name in LSQ_ERRORS})

    def _learn_block(self, block: Block, cache: BlockCache, what: str) -> dict[str, Tensor]:
        """Return the better scales of the block's quantizers, by buffer names of the denoiser, and both errors."""
        inside = {_within(block, name): quantizer for name, quantizer in self._quantizers(block.name).items()}
        learned, module = Scales(inside, self.config), self.quantized.denoiser.get_submodule(block.name)
        training = BlockTraining(block.name, module, learned, cache, self.config)
        training.train_by(self.trainer(what))
        candidates = dict(zip(LSQ_ERRORS, (learned.start, learned.tensors()), strict=True))
        errors = {name: training.error_of(scales) for name, scales in candidates.items()}
        better = candidates[min(errors, key=errors.__getitem__)]
        kept = {f"{block.name}.{name}": scale.detach() for name, scale in better.items()}
        return kept | {name: torch.tensor(error) for name, error in errors.items()}

    def _quantizers(self, block: str | None = None) -> dict[str, ActivationQuantizer]:
        """Return the quantizers of the denoiser or of one block, by their names in the denoiser."""
        found = {
            name: point
            for name, point in fake_quantizers(self.quantized.denoiser).items()
            if isinstance(point, ActivationQuantizer)
        }
        return {name: point for name, point in found.items() if block is None or name.startswith(f"{block}.")}


def _within(block: Block, name: str) -> str:
    return name.removeprefix(f"{block.name}.")
