"""LoRA on the float denoiser, and on the packed codes of a quantized one (QLoRA), a set of adapters for each expert."""

from collections.abc import Sequence
from typing import Any

import torch

from quantbooth.data.options import flag, number, whole, words
from quantbooth.diffusion.base import Base
from quantbooth.errors import UserError
from quantbooth.quant import adapters, scale_sets
from quantbooth.quant.named import require_fit
from quantbooth.quant.selection import Selection
from quantbooth.stages.tuners import Learning, State, Tuner
from quantbooth.timesteps.strategies import Strategy

__all__ = ["LoraTuner"]


class LoraTuner(Tuner):
    """Low-rank terms beside frozen layers (Hu et al. 2021, arXiv 2106.09685; on quantized ones Dettmers et al. 2023).

    Args:
        rank: r, of A and B.
        alpha: the term is scaled by alpha / r; None is r, and so no scale.
        include: patterns of the layers' names.
        exclude: patterns of layers that are left out of these.
        quantized: whether the layers are to be packed codes.
        seed: draws A.

    Raises:
        UserError: naming the option that is not what it must be.
    """

    name = "lora"
    kind = "adapters"
    by_sample = True

    def __init__(
        self,
        rank: int = 4,
        alpha: float | None = None,
        include: Sequence[str] = adapters.ATTENTION,
        exclude: Sequence[str] = (),
        quantized: bool = False,
        seed: int = 0,
    ) -> None:
        self.rank = whole("tuner.rank", rank, least=1)
        self.alpha = alpha
        self.scale = 1.0 if alpha is None else _positive("tuner.alpha", alpha) / self.rank
        self.include, self.exclude = words("tuner.include", include), words("tuner.exclude", exclude)
        self.quantized = flag("quantized", quantized)
        self.seed = whole("seed", seed, least=0)

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "rank": self.rank,
            "alpha": self.alpha,
            "include": self.include,
            "exclude": self.exclude,
            "quantized": self.quantized,
        }

    def check(self, strategy: Strategy, bits: int | None) -> None:
        if self.quantized and bits is None:
            raise UserError("tuner=qlora adapts packed codes; choose quant=w8, w4, w3 or w2, or tuner=lora")
        if not self.quantized and bits is not None:
            raise UserError("tuner=lora adapts float weights; choose quant=fp with it, or tuner=qlora")

    def prepare_(self, base: Base, sets: int, selection: Selection, subjects: int = 1) -> Learning:
        draw = torch.Generator().manual_seed(self.seed)
        adapters.attach_(base.denoiser, self._names(base), sets, self.rank, self.scale, selection, draw, subjects)
        return {"adapters": adapters.parameters(base.denoiser)}

    def state(self, base: Base) -> State:
        return adapters.read(base.denoiser)

    def load_(self, base: Base, state: State, sets: int, selection: Selection) -> None:
        expected = adapters.likeness(base.denoiser, self._names(base), sets, self.rank)
        require_fit(expected, state, "the denoiser", "what was tuned")
        adapters.serve_(base.denoiser, state, selection)

    def join(self, states: Sequence[State]) -> State:
        return scale_sets.stack(states)

    def _names(self, base: Base) -> list[str]:
        return adapters.targets(base.denoiser, self.include, self.exclude)


def _positive(option: str, value: object) -> float:
    found = number(option, value, least=0)
    if found == 0 or found == float("inf"):
        raise UserError(f"{option} must be a number > 0, got {value!r}")
    return found
