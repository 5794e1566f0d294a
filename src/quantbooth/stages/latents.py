"""Latents of pictures: encoded once and kept, or encoded whenever they are asked for; the numbers are the same."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Anew", "Encode", "Latents", "once"]

Encode = Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b c hl wl"]]


@runtime_checkable
class Latents(Protocol):
    """Latents by place; a tensor is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: Int[Tensor, " b"], /) -> Float[Tensor, "b c hl wl"]: ...


class Anew:
    """Encodes the pictures that are asked for, each by itself, so that no batch changes the last bit of it."""

    def __init__(self, encode: Encode, pictures: Float[Tensor, "n 3 h w"]) -> None:
        self.encode, self.pictures = encode, pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, places: Int[Tensor, " b"]) -> Float[Tensor, "b c hl wl"]:
        return torch.cat([self.encode(self.pictures[place][None]) for place in places.tolist()])


def once(latents: Anew) -> Float[Tensor, "n c hl wl"]:
    """All of them, to be kept."""
    return latents[torch.arange(len(latents))] if len(latents) else torch.empty(0, 0, 0, 0)
