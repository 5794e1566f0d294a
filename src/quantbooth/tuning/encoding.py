"""Latents and prompts for training, cached or encoded at every step.

Cached and uncached latents are equal. A prompt is encoded at every step where part of the text encoder is trainable.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning

__all__ = ["LazyLatents", "Encode", "TrainablePrompt", "CachedPrompt", "Latents", "cache_latents"]

Encode = Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b c hl wl"]]


@runtime_checkable
class Latents(Protocol):
    """Latents by index; a tensor is an implementation."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Int[Tensor, " b"], /) -> Float[Tensor, "b c hl wl"]: ...


class LazyLatents:
    """Latents encoded on access, one picture at a time, so that the result does not depend on the batch."""

    def __init__(self, encode: Encode, pictures: Float[Tensor, "n 3 h w"]) -> None:
        self.encode, self.pictures = encode, pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, indices: Int[Tensor, " b"]) -> Float[Tensor, "b c hl wl"]:
        return torch.cat([self.encode(self.pictures[index][None]) for index in indices.tolist()])


def cache_latents(latents: LazyLatents) -> Float[Tensor, "n c hl wl"]:
    """Encode all latents, to cache them on the CPU: a step takes some of them."""
    return latents[torch.arange(len(latents))].cpu() if len(latents) else torch.empty(0, 0, 0, 0)


class CachedPrompt(nn.Module):
    """A prompt with a cached encoding, which needs no text encoder any more."""

    def __init__(self, text: Conditioning) -> None:
        super().__init__()
        self.names = tuple(text.tensors)
        for name, tensor in text.tensors.items():  # buffers, so that they move with the module
            self.register_buffer(name, tensor, persistent=False)

    def forward(self) -> Conditioning:
        """Return the conditioning of the prompt, one row."""
        return Conditioning.from_tensors({name: self.get_buffer(name) for name in self.names})


class TrainablePrompt(nn.Module):
    """A prompt that is encoded with gradient on each call; the text encoder is a submodule, so that it moves along."""

    def __init__(self, base: Base, sentence: str) -> None:
        super().__init__()
        self.text_encoders = nn.ModuleList(base.text_encoders)
        self.base, self.sentence = base, sentence

    def forward(self) -> Conditioning:
        """Encode the prompt, one row."""
        return self.base.encode_prompts([self.sentence])
