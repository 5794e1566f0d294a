"""What tuning reads, encoded once and kept or encoded whenever it is asked for: latents and sentences.

Latents of pictures: encoded once and kept, or encoded whenever they are asked for; the numbers are the same.

The subject's sentence as tuning reads it: encoded once, or anew in every step because part of the encoder learns.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning

__all__ = ["Anew", "Encode", "EncodedAnew", "EncodedOnce", "Latents", "once"]

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


class EncodedOnce(nn.Module):
    """A sentence whose encoding never changes: the text encoder is not needed any more."""

    def __init__(self, text: Conditioning) -> None:
        super().__init__()
        self.names = tuple(text.tensors)
        for name, tensor in text.tensors.items():  # buffers, so that they move with the stage
            self.register_buffer(name, tensor, persistent=False)

    def forward(self) -> Conditioning:
        """Return the sentence, one row."""
        return Conditioning.from_tensors({name: self.get_buffer(name) for name in self.names})


class EncodedAnew(nn.Module):
    """A sentence that is encoded with gradient each time; the encoder is a part, so that it moves with the stage."""

    def __init__(self, base: Base, sentence: str) -> None:
        super().__init__()
        self.text_encoders = nn.ModuleList(base.text_encoders)
        self.base, self.sentence = base, sentence

    def forward(self) -> Conditioning:
        """Return the sentence, one row."""
        return self.base.encode_prompts([self.sentence])
