"""Conditioning: the inputs of a denoiser besides x_t and t, as one value with a row per sample.

    tokens  [b, length, d]    hidden states of the text encoders
    extra   name -> [b, ...]  what a family adds: SDXL `pooled` [b, p] and `sizes` [b, 6]; a mask, token ids, ...

Sampling, tuning, calibration and measurement only index, concatenate and repeat rows; only the family that made the
tensors interprets them (`diffusion/families`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from quantbooth.runtime.devices import sent

__all__ = ["Conditioning"]

TOKENS = "tokens"


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Tensors with one row per sample.

    Attributes:
        tokens: hidden states of the prompt.
        extra: further tensors by name, each with the same number of rows.

    Raises:
        ValueError: when the numbers of rows differ, or an extra tensor is named "tokens".
    """

    tokens: Float[Tensor, "b length d"]
    extra: Mapping[str, Shaped[Tensor, "..."]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if TOKENS in self.extra:
            raise ValueError(f"an extra tensor must have another name than {TOKENS!r}")
        for name, tensor in self.extra.items():
            if len(tensor) != len(self.tokens):
                raise ValueError(f"{name!r} must have {len(self.tokens)} rows, as {TOKENS!r} has, got {len(tensor)}")

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Sequence[int] | Int[Tensor, " chosen"] | Bool[Tensor, " b"]) -> "Conditioning":
        """Return some rows; `c[:1]` is the first.

        Raises:
            TypeError: for a single integer, which would remove the row axis.
        """
        if isinstance(rows, int):
            raise TypeError(f"rows must be a slice, a list or a tensor of numbers, got {rows!r}")
        chosen = rows if isinstance(rows, slice | Tensor) else list(rows)
        if isinstance(chosen, Tensor):
            chosen = sent(chosen, self.device)
        return self._made({name: tensor[chosen] for name, tensor in self.tensors.items()})

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tokens."""
        return self.tokens.dtype

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as files store them; `from_tensors` is the inverse."""
        return {TOKENS: self.tokens, **self.extra}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> "Conditioning":
        """Return the conditioning with these `tensors`.

        Raises:
            ValueError: when "tokens" is missing.
        """
        if TOKENS not in tensors:
            raise ValueError(f"a conditioning must have {TOKENS!r}, found {', '.join(map(repr, tensors)) or 'nothing'}")
        return cls(tensors[TOKENS], {name: tensor for name, tensor in tensors.items() if name != TOKENS})

    @classmethod
    def cat(cls, parts: Sequence["Conditioning"]) -> "Conditioning":
        """Concatenate the rows of all parts.

        Raises:
            ValueError: when there is no part, or the parts have tensors of different names.
        """
        _require_same_names(parts)
        return cls.from_tensors({name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors})

    @classmethod
    def where(cls, first: Bool[Tensor, " b"], this: "Conditioning", other: "Conditioning") -> "Conditioning":
        """Return for each row that of `this` where `first` is true, else that of `other`.

        Raises:
            ValueError: when the two have tensors of different names.
        """
        _require_same_names([this, other])

        def chosen(one: Tensor, two: Tensor) -> Tensor:
            return torch.where(first.to(one.device).reshape(-1, *[1] * (one.ndim - 1)), one, two)

        return cls.from_tensors({name: chosen(one, other.tensors[name]) for name, one in this.tensors.items()})

    def expand(self, count: int) -> "Conditioning":
        """Repeat a single row `count` times, without a copy.

        Raises:
            ValueError: when there is not exactly one row.
        """
        if len(self) != 1:
            raise ValueError(f"a conditioning must have one row to be repeated, got {len(self)}")
        return self._made({name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in self.tensors.items()})

    def to(self, target: torch.device | torch.dtype | str) -> "Conditioning":
        """Return a copy on a device, or in a dtype, which applies to floating tensors only."""
        if not isinstance(target, torch.dtype):
            return self._made({name: sent(tensor, target) for name, tensor in self.tensors.items()})
        floats = {name: tensor.to(target) for name, tensor in self.tensors.items() if tensor.is_floating_point()}
        return self._made({**self.tensors, **floats})

    def detach(self) -> "Conditioning":
        """Return a copy detached from the autograd graph."""
        return self._made({name: tensor.detach() for name, tensor in self.tensors.items()})

    def _made(self, tensors: Mapping[str, Tensor]) -> "Conditioning":
        return Conditioning.from_tensors(tensors)


def _require_same_names(parts: Sequence[Conditioning]) -> None:
    names = [list(part.tensors) for part in parts]
    if not names or any(sorted(one) != sorted(names[0]) for one in names):
        raise ValueError(f"conditionings must have tensors of the same names, got {names or 'none'}")
