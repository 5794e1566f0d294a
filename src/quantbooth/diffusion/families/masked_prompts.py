"""Prompts with a mask: how T5 gives one, and transformers whose cross-attention reads the tokens that it marks.

tokens [b, n, d]   hidden states
mask   [b, n]      which of them are of tokens
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.folder_config import latent_shape
from quantbooth.diffusion.families.transformer import TransformerFamily
from quantbooth.diffusion.model import TextEncoder

__all__ = ["MASK", "MaskedPromptFamily", "last_states", "lower"]

MASK = "mask"


def lower(prompt: str) -> str:
    """Return a prompt as diffusers' pipelines of these families read it."""
    return prompt.lower().strip()


def last_states(encoder: TextEncoder, prompts: Sequence[str], length: int) -> Conditioning:
    """Return the last hidden states of T5 in float32, and which are of tokens."""
    read = encoder.read(prompts, length)
    states = encoder.network(read.input_ids, attention_mask=read.attention_mask)[0]
    return Conditioning(states.float(), {MASK: read.attention_mask.bool()})


class MaskedPromptFamily(TransformerFamily):
    """A transformer with cross-attention to the tokens of a prompt, whose first channels are its prediction."""

    def predict(
        self,
        denoiser: Any,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return the first channels of transformer(x_t, network time, tokens, mask), as many as those of x_t."""
        found: Tensor = denoiser(
            hidden_states=x_t,
            timestep=self.network_time(t, len(x_t)).to(x_t.device),
            encoder_hidden_states=conditioning.tokens,
            encoder_attention_mask=conditioning.extra[MASK],
        ).sample
        return found[:, : x_t.shape[1]]

    def latent_shape(self, denoiser: Any) -> tuple[int, int, int]:
        return latent_shape(denoiser.config, self.component)
