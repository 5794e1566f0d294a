"""Tuners: which numbers of a unet learn the subject, and how they are read out and put back."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Shaped
from torch import Tensor, nn

from quantbooth.errors import UserError
from quantbooth.quant import scale_sets
from quantbooth.quant.selection import Selection
from quantbooth.timesteps.strategies import Strategy

__all__ = ["FullTuner", "ScaleTuner", "State", "Tuner"]

State = dict[str, Shaped[Tensor, "..."]]


class Tuner(ABC):
    """One way to personalize a unet."""

    kind: str

    @abstractmethod
    def check(self, strategy: Strategy, bits: int | None) -> None:
        """Raise UserError when this tuner cannot do what the strategy or the bit-width asks."""

    @abstractmethod
    def prepare_(self, unet: nn.Module, sets: int, selection: Selection) -> list[nn.Parameter]:
        """Put what will learn into the unet, and return it."""

    @abstractmethod
    def state(self, unet: nn.Module) -> State:
        """A copy of what was learned."""

    @abstractmethod
    def load_(self, unet: nn.Module, state: State, selection: Selection) -> None:
        """Make a fresh unet the tuned one."""

    @abstractmethod
    def join(self, states: Sequence[State]) -> State:
        """What experts that were trained apart learned, as one state."""


class ScaleTuner(Tuner):
    """Gains on the scales of a quantized unet (PEQA, as relative gains): everything else stays frozen integers."""

    kind = "scale_sets"

    def check(self, strategy: Strategy, bits: int | None) -> None:
        if bits is None:
            raise UserError("tuner=scales tunes quantization scales; choose quant=w8, w4, w3 or w2, or tuner=full")

    def prepare_(self, unet: nn.Module, sets: int, selection: Selection) -> list[nn.Parameter]:
        scale_sets.attach_(unet, sets, selection)
        return scale_sets.parameters(unet)

    def state(self, unet: nn.Module) -> State:
        return scale_sets.gains(unet)

    def load_(self, unet: nn.Module, state: State, selection: Selection) -> None:
        scale_sets.attach_(unet, len(next(iter(state.values()))), selection)
        scale_sets.load_(unet, state)

    def join(self, states: Sequence[State]) -> State:
        return scale_sets.stack(states)


class FullTuner(Tuner):
    """Every weight of the float unet: DreamBooth as published (Ruiz et al. 2023), the measure for the others."""

    kind = "tuned_unet"

    def check(self, strategy: Strategy, bits: int | None) -> None:
        if bits is not None:
            raise UserError("tuner=full tunes float weights; choose quant=fp with it, or tuner=scales")
        served = sum(zone.stop - zone.start for zone in strategy.served.zones)
        if strategy.sets != 1 or served < strategy.served.timesteps:
            raise UserError(f"tuner=full has one set of weights for all timesteps; strategy {strategy.name} needs more")

    def prepare_(self, unet: nn.Module, sets: int, selection: Selection) -> list[nn.Parameter]:
        return list(unet.requires_grad_(True).parameters())

    def state(self, unet: nn.Module) -> State:
        return {name: tensor.detach().clone() for name, tensor in unet.state_dict().items()}

    def load_(self, unet: nn.Module, state: State, selection: Selection) -> None:
        unet.load_state_dict(state, strict=True)

    def join(self, states: Sequence[State]) -> State:
        if len(states) != 1:
            raise ValueError(f"float weights of one run were expected, got {len(states)} runs")
        return states[0]
