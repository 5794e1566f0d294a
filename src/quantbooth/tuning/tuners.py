"""Tuners: which parameters of a base are trained on a subject, and how they are read and loaded.

    scales   gains on the scales of a quantized denoiser (PEQA)
    lora     LoRA on the float denoiser, or on the packed codes of a quantized one (QLoRA), an adapter for each expert;
             of groups of inputs, it merges into zero points (QA-LoRA)
    full     all weights of the float denoiser (DreamBooth)

each with or without a trainable identifier.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.quant import adapters, scale_sets
from quantbooth.quant.group_gains import require_groups
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.scale_sets import Parts, require_fit
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.stored import without, without_groups
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.progress import say
from quantbooth.timesteps.strategies import Strategy
from quantbooth.tuning.identifier import added_tokens, attach_rows_, learned_rows
from quantbooth.tuning.teacher import Distance, distance_from_start
from quantbooth.tuning.tuner import Learning, State, Tuner

__all__ = ["FullTuner", "IdentifierTuner", "LoraTuner", "ScaleTuner"]

ROWS = "identifier."


class ScaleTuner(Tuner):
    """Gains on the scales of a quantized denoiser (PEQA, as relative gains); its codes and all else stay frozen."""

    name = "scales"
    kind = "scale_sets"
    by_sample = True

    def __init__(
        self, inputs: bool = False, biases: bool = False, norms: bool = False, group_size: int | None = None
    ) -> None:
        self.parts = Parts(inputs, biases, norms, group_size)

    def describe(self) -> dict[str, Any]:
        parts = self.parts
        groups = {} if parts.group_size is None else {"group_size": parts.group_size}
        return {"name": self.name, "inputs": parts.inputs, "biases": parts.biases, "norms": parts.norms, **groups}

    def check(self, strategy: Strategy, bits: int | None, stored: bool = False) -> None:
        if stored and self.parts.group_size is not None:
            raise without_groups(self.parts.group_size)
        if bits is None and not stored:
            raise UserError("tuner=scales tunes quantization scales; choose quant=w8, w4, w3 or w2, or tuner=full")

    def prepare_(self, base: Base, sets: int, selection: SetSelection, subjects: int = 1) -> Learning:
        scale_sets.attach_(base.denoiser, sets * subjects, selection, self.parts, base.family.rowless_layers)
        size = self.parts.group_size
        if size is not None and (whole := require_groups(quantized_layers(base.denoiser), size)):
            say(f"one group of inputs, which tuner.group_size={size} does not divide: {', '.join(whole)}")
        return scale_sets.parameters(base.denoiser)

    def distance(self, base: Base) -> Distance:
        return distance_from_start([each for kind in scale_sets.parameters(base.denoiser).values() for each in kind])

    def state(self, base: Base) -> State:
        return scale_sets.read(base.denoiser)

    def load_(self, base: Base, state: State, sets: int, selection: SetSelection) -> None:
        scale_sets.attach_(base.denoiser, sets, selection, self.parts, base.family.rowless_layers)
        scale_sets.load_(base.denoiser, state)

    def scaled(self, base: Base, state: State, shares: Float[Tensor, " sets"]) -> State:
        return scale_sets.scaled(state, shares)

    def join(self, states: Sequence[State]) -> State:
        return scale_sets.stack(states)


class FullTuner(Tuner):
    """All weights of the float denoiser: DreamBooth as published (Ruiz et al. 2023), the reference for the others."""

    name = "full"
    kind = "tuned_weights"
    has_base = False

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def check(self, strategy: Strategy, bits: int | None, stored: bool = False) -> None:
        if stored:
            raise without(self.name)
        if bits is not None:
            raise UserError("tuner=full tunes float weights; choose quant=fp with it, or tuner=scales")
        served = sum(zone.stop - zone.start for zone in strategy.sampling_zones.zones)
        if strategy.sets != 1 or served < strategy.sampling_zones.timesteps or strategy.least is not None:
            raise UserError(f"tuner=full has one set of weights for all timesteps; strategy {strategy.name} needs more")

    def prepare_(self, base: Base, sets: int, selection: SetSelection, subjects: int = 1) -> Learning:
        return {"weights": list(base.denoiser.requires_grad_(True).parameters())}

    def distance(self, base: Base) -> Distance:
        return distance_from_start(list(base.denoiser.parameters()))

    def state(self, base: Base) -> State:
        return {name: tensor.detach().clone() for name, tensor in base.denoiser.state_dict().items()}

    def load_(self, base: Base, state: State, sets: int, selection: SetSelection) -> None:
        require_fit(base.denoiser.state_dict(), state, "the denoiser", "what was tuned")
        base.denoiser.load_state_dict(state, strict=True)

    def scaled(self, base: Base, state: State, shares: Float[Tensor, " sets"]) -> State:
        start, share = base.denoiser.state_dict(), float(shares[0])
        return {name: start[name] + share * (tensor - start[name]) for name, tensor in state.items()}

    def join(self, states: Sequence[State]) -> State:
        return _only(states, "float weights")


class IdentifierTuner(Tuner):
    """Any tuner plus trainable embeddings of the identifier's tokens (see `tuning.identifier`).

    The state has them as `identifier.<token>`, one per token for any strategy: the text encoder runs before a timestep
    is known.

    Args:
        inner: the other tuner.
        sentence: the instance prompt, with the identifier.
        without: the class prompt, without the identifier.
    """

    def __init__(self, inner: Tuner, sentence: str, without: str) -> None:
        self.inner, self.sentence, self.without = inner, sentence, without
        self.name, self.kind, self.has_base = inner.name, inner.kind, inner.has_base

    def describe(self) -> dict[str, Any]:
        return {**self.inner.describe(), "identifier": {"sentence": self.sentence, "without": self.without}}

    def check(self, strategy: Strategy, bits: int | None, stored: bool = False) -> None:
        self.inner.check(strategy, bits, stored)
        if len(strategy.runs) > 1:
            raise UserError(
                f"tuner.identifier=true learns one identifier for all timesteps, but strategy {strategy.name} trains "
                f"its {strategy.sets} experts apart and each would learn its own; choose strategy.apart=false"
            )

    def prepare_(self, base: Base, sets: int, selection: SetSelection, subjects: int = 1) -> Learning:
        rows = attach_rows_(base, self._tokens(base)).rows
        return {**self.inner.prepare_(base, sets, selection, subjects), "identifier": [rows]}

    def distance(self, base: Base) -> Distance:
        return self.inner.distance(base)  # the identifier is new, so nothing pulls it back

    def state(self, base: Base) -> State:
        return {**self.inner.state(base), **self._named(base, learned_rows(base).rows)}

    def load_(self, base: Base, state: State, sets: int, selection: SetSelection) -> None:
        own, others = _parted(state)
        module = attach_rows_(base, self._tokens(base))
        expected = self._named(base, module.rows)
        require_fit(expected, own, "the identifier", "what was tuned")
        with torch.no_grad():
            module.rows.copy_(torch.stack([own[name] for name in expected]))
        self.inner.load_(base, others, sets, selection)

    def scaled(self, base: Base, state: State, shares: Float[Tensor, " sets"]) -> State:
        own, others = _parted(state)  # a prompt is encoded before a timestep, so the identifier has no share
        return {**self.inner.scaled(base, others, shares), **own}

    def join(self, states: Sequence[State]) -> State:
        own, others = _parted(_only(states, "an identifier"))
        return {**self.inner.join([others]), **own}

    def _tokens(self, base: Base) -> tuple[int, ...]:
        return added_tokens(base.tokenizer, self.sentence, self.without)

    def _named(self, base: Base, rows: Tensor) -> State:
        return {f"{ROWS}{token}": row.detach().clone() for token, row in zip(self._tokens(base), rows, strict=True)}


def _parted(state: State) -> tuple[State, State]:
    """Split a state into the identifier's rows and the rest."""
    own = {name: tensor for name, tensor in state.items() if name.startswith(ROWS)}
    return own, {name: tensor for name, tensor in state.items() if name not in own}


def _only(states: Sequence[State], what: str) -> State:
    if len(states) != 1:
        raise ValueError(f"{what} of one run were expected, got {len(states)} runs")
    return states[0]


class LoraTuner(Tuner):
    """LoRA on frozen layers (Hu et al. 2021, arXiv 2106.09685; on quantized layers Dettmers et al. 2023).

    Args:
        rank: r, of A and B.
        alpha: the scale is alpha / r; None is r, a scale of 1.
        include: patterns of the target layers' names.
        exclude: patterns of layers to leave out of these.
        quantized: whether the layers must be quantized (QLoRA).
        seed: of A's initialization.
        group_size: inputs of a group whose sum A reads, so that what is learned merges into zero points (QA-LoRA, Xu et
            al. 2023, arXiv 2309.14717); None reads each input.
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
        group_size: int | None = None,
    ) -> None:
        self.rank = rank
        self.alpha = alpha
        self.scale = 1.0 if alpha is None else alpha / rank
        self.include, self.exclude = list(include), list(exclude)
        self.quantized = quantized
        self.seed, self.group_size = seed, group_size

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "rank": self.rank,
            "alpha": self.alpha,
            "include": self.include,
            "exclude": self.exclude,
            "quantized": self.quantized,
            **({} if self.group_size is None else {"group_size": self.group_size}),
        }

    def check(self, strategy: Strategy, bits: int | None, stored: bool = False) -> None:
        if stored:
            raise without("lora" if not self.quantized else "qlora" if self.group_size is None else "qa_lora")
        if self.group_size is not None and not self.quantized:
            raise UserError(f"tuner.group_size={self.group_size} needs packed codes; choose tuner=qa_lora and quant=w4")
        if self.quantized and bits is None:
            raise UserError("tuner=qlora adapts packed codes; choose quant=w8, w4, w3 or w2, or tuner=lora")
        if not self.quantized and bits is not None:
            raise UserError("tuner=lora adapts float weights; choose quant=fp with it, or tuner=qlora")

    def prepare_(self, base: Base, sets: int, selection: SetSelection, subjects: int = 1) -> Learning:
        draw = torch.Generator().manual_seed(self.seed)
        places = (base.denoiser, self._names(base), sets, self.rank, self.scale, selection, draw, subjects)
        adapters.attach_(*places, self.group_size)
        return {"adapters": adapters.parameters(base.denoiser)}

    def distance(self, base: Base) -> Distance:
        return partial(adapters.distance, base.denoiser)

    def state(self, base: Base) -> State:
        return adapters.read(base.denoiser)

    def load_(self, base: Base, state: State, sets: int, selection: SetSelection) -> None:
        expected = adapters.likeness(base.denoiser, self._names(base), sets, self.rank, self.group_size)
        require_fit(expected, state, "the denoiser", "what was tuned")
        adapters.serve_(base.denoiser, state, selection, self.group_size)

    def scaled(self, base: Base, state: State, shares: Float[Tensor, " sets"]) -> State:
        return adapters.scaled(state, shares)

    def join(self, states: Sequence[State]) -> State:
        return scale_sets.stack(states)

    def _names(self, base: Base) -> list[str]:
        names = adapters.targets(base.denoiser, self.include, self.exclude)
        base.family.require_rows(names, "tuner.exclude")
        return names
