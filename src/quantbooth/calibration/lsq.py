"""Learned steps: the activation scales of each block are learned until it gives what the float block gave.

    L = mean(sum_channels |block(x, s) - y|^p),    s = s0 exp(r)

x is the input of the block when all blocks before it are quantized, y the output of the float block; s0 is the scale of
the observed range. r is learned, so that a step of Adam changes every scale by the same share and none
below 0. LSQ (arXiv 1902.08153) gives dL/ds; block by block with p = 2.4, Adam and a cosine as in Q-Diffusion (arXiv
2302.04304), which learns s itself.

The ranges of all activations are watched first. Each block is learned when all weights are quantized and all blocks
before it are done, as in Q-Diffusion.
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
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.lightning import Loop
from quantbooth.runtime.options import number, whole
from quantbooth.store.progress import Progress

__all__ = ["LSQCalibration", "LSQ_ERRORS", "Scales", "LSQConfig"]


@dataclass(frozen=True)
class LSQConfig:
    """How activation ranges are watched and scales learned.

    Attributes:
        momentum: of the running ranges.
        batch: items of a batch, watched or learned from.
        iterations: optimizer steps of each block; 0 keeps the scales of the ranges.
        learning_rate: Adam's at first, of a scale relative to itself.
        lp_norm: p.
        seed: decides in which order items are watched, and which a step sees.

    Raises:
        UserError: naming the option that is not such a number.
    """

    momentum: float
    batch: int
    iterations: int
    learning_rate: float
    lp_norm: float
    seed: int

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("iterations", 0), ("seed", 0)):
            whole(f"calibration.activations.{name}", getattr(self, name), least=least)
        number("calibration.activations.momentum", self.momentum, least=0, below=1)
        number("calibration.activations.learning_rate", self.learning_rate, least=0)
        if number("calibration.activations.lp_norm", self.lp_norm, least=0) == 0:
            raise UserError("calibration.activations.lp_norm must be positive, got 0")


class Scales(Parameterization):
    """The scales s0 exp(r) of a block's quantizers, which start as s0 (LSQ, arXiv 1902.08153).

    Args:
        quantizers: of the block, by their names within it.
        config: how scales are learned.
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
    """Quantizes the activations of a denoiser whose weights are quantized.

    A block keeps the learned scales where they bring it nearer to the float block than those of the ranges do.

    Attributes:
        quantized: the base with the quantized denoiser.
        bits: of its activations.
        config: how ranges are watched and scales learned.
        items: what the denoisers are run on.
        loop: runs what is not learned.
        trainer: makes the trainer of one block from what it does, in words.
    """

    quantized: Base
    bits: ActivationBits
    config: LSQConfig
    items: CalibrationSet
    loop: Loop
    trainer: Callable[[str], Trainer]

    def run(self, progress: Progress, base: Callable[[], Base], note: Note) -> dict[str, ActivationBits]:
        """Do what `progress` does not have: its part 0 are the ranges, part k the scales of block k.

        Args:
            progress: of this work alone.
            base: makes the base with the float denoiser; asked only where scales are to be learned.
            note: is told of each block with its number, from 0, and its errors by LSQ_ERRORS.

        Returns:
            What was installed in attention modules, by their names.
        """
        device, found = next(self.quantized.denoiser.parameters()).device, progress.read(0)
        if found is None:
            found = self._watched()
            progress.write(0, found)
        attentions = insert_fake_quantizers_(
            self.quantized.denoiser, partial(ActivationQuantizer, self.bits.inputs, device=device), self.bits.softmax
        )
        for name, quantizer in self._quantizers().items():
            quantizer.load_state_dict({key: found[f"{name}.{key}"] for key in quantizer.state_dict()})
        if self.config.iterations:
            self._learn(progress, base(), note)
        return dict.fromkeys(attentions, self.bits)

    def _watched(self) -> dict[str, Tensor]:
        """The scales and zero points of all ranges, by the names of the denoiser's buffers."""
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
        """The better scales of the block's quantizers, by the names of the denoiser's buffers, and both errors."""
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
        """Those of the denoiser, or of one block of it, by their names in the denoiser."""
        found = {
            name: point
            for name, point in fake_quantizers(self.quantized.denoiser).items()
            if isinstance(point, ActivationQuantizer)
        }
        return {name: point for name, point in found.items() if block is None or name.startswith(f"{block}.")}


def _within(block: Block, name: str) -> str:
    return name.removeprefix(f"{block.name}.")
