"""The subject's sentence as tuning reads it: encoded once, or anew in every step because part of the encoder learns."""

from torch import nn

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning

__all__ = ["EncodedOnce", "EncodedAnew"]


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
