"""Gains and adapters on the same quantized denoiser, learned together: channels are scaled, and LoRA adds to them.

    y = g_out_k * (W_0 (g_in_k * x)) + s B_k A_k x + b + shift_k

Each kind keeps its learning rate: `learning_rate` of the gains, `adapter_learning_rate` of A and B.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.quant import adapters, scale_sets
from quantbooth.quant.low_rank import LEARNED
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.stored import without
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.strategies import Strategy
from quantbooth.tuning.teacher import Distance
from quantbooth.tuning.tuner import Learning, State, Tuner
from quantbooth.tuning.tuners import LoraTuner, ScaleTuner

__all__ = ["StackedTuner"]


class StackedTuner(Tuner):
    """Gains on the scales (see `ScaleTuner`) plus LoRA on the same packed codes (see `LoraTuner`).

    Args:
        inputs: gains of input channels, too.
        biases: shifts on the biases of quantized layers, too.
        norms: gains and shifts on the normalizations, too.
        rank: r, of A and B.
        alpha: the adapters' scale is alpha / r; None is r, a scale of 1.
        include: patterns of the names of the layers with adapters.
        exclude: patterns of layers to leave out of these.
        seed: of A's initialization.
    """

    name = "stacked"
    kind = "scale_sets"
    by_sample = True

    def __init__(
        self,
        inputs: bool = False,
        biases: bool = False,
        norms: bool = False,
        rank: int = 2,
        alpha: float | None = None,
        include: Sequence[str] = adapters.ATTENTION,
        exclude: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.scales = ScaleTuner(inputs, biases, norms)
        self.adapters = LoraTuner(rank, alpha, include, exclude, quantized=True, seed=seed)

    def describe(self) -> dict[str, Any]:
        found = {**self.scales.describe(), **self.adapters.describe(), "name": self.name}
        return {key: value for key, value in found.items() if key != "quantized"}

    def check(self, strategy: Strategy, bits: int | None, stored: bool = False) -> None:
        if stored:
            raise without("scales_lora")
        if bits is None:
            raise UserError("tuner=scales_lora tunes packed codes; choose quant=w8, w4, w3 or w2, or tuner=lora")

    def prepare_(self, base: Base, sets: int, selection: SetSelection, subjects: int = 1) -> Learning:
        asked = (base, sets, selection, subjects)
        return {**self.scales.prepare_(*asked), **self.adapters.prepare_(*asked)}

    def distance(self, base: Base) -> Distance:
        of_scales, of_adapters = self.scales.distance(base), self.adapters.distance(base)
        return lambda: of_scales() + of_adapters()

    def state(self, base: Base) -> State:
        return {**self.scales.state(base), **self.adapters.state(base)}

    def load_(self, base: Base, state: State, sets: int, selection: SetSelection) -> None:
        low_rank, gains = _parted(state)
        self.scales.load_(base, gains, sets, selection)
        self.adapters.load_(base, low_rank, sets, selection)

    def scaled(self, base: Base, state: State, shares: Float[Tensor, " sets"]) -> State:
        low_rank, gains = _parted(state)
        return {**self.scales.scaled(base, gains, shares), **self.adapters.scaled(base, low_rank, shares)}

    def join(self, states: Sequence[State]) -> State:
        return scale_sets.stack(states)


def _parted(state: State) -> tuple[State, State]:
    """Split a state into that of the adapters and that of the gains."""
    low_rank = {name: tensor for name, tensor in state.items() if f".{LEARNED}_" in name}
    return low_rank, {name: tensor for name, tensor in state.items() if name not in low_rank}
