"""The subject's sentence as tuning reads it: encoded once, or anew in every step because part of the encoder learns."""

from jaxtyping import Float
from torch import Tensor, nn

from quantbooth.diffusion.base import Base

__all__ = ["EncodedOnce", "EncodedAnew"]


class EncodedOnce(nn.Module):
    """A sentence whose encoding never changes: the text encoder is not needed any more."""

    def __init__(self, text: Float[Tensor, "length d"]) -> None:
        super().__init__()
        self.register_buffer("text", text, persistent=False)

    def forward(self) -> Float[Tensor, "length d"]:
        return self.get_buffer("text")


class EncodedAnew(nn.Module):
    """A sentence that is encoded with gradient each time; the encoder is a part, so that it moves with the stage."""

    def __init__(self, base: Base, sentence: str) -> None:
        super().__init__()
        self.text_encoders = nn.ModuleList(base.text_encoders)
        self.base, self.sentence = base, sentence

    def forward(self) -> Float[Tensor, "length d"]:
        return self.base.encode_texts([self.sentence])[0]
