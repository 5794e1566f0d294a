"""Joint attention of picture and text with a mask, which diffusers' own processor takes and does not read.

    softmax(q k^T / sqrt(d) + mask) v        over the patches, and after them the tokens of the text

It is for equal tokens: n keys that are the same are one key with log n added to its scores.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import JointAttnProcessor2_0
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

__all__ = ["MaskedJointAttention", "counted", "mask_attention_"]


class MaskedJointAttention:
    """The processor of an `Attention` with projections of its own for the text; without a mask it is diffusers' own."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "b patches d"],
        encoder_hidden_states: Float[Tensor, "b tokens d"],
        attention_mask: Float[Tensor, "1 1 1 n"] | None = None,
    ) -> tuple[Float[Tensor, "b patches d"], Float[Tensor, "b tokens d"]]:
        """Return what patches and tokens read, projected; the arguments are those of diffusers' processors."""

        def heads(x: Tensor, norm: nn.Module | None = None) -> Tensor:
            split = x.unflatten(2, (attn.heads, -1)).transpose(1, 2)
            return split if norm is None else norm(split)

        text = encoder_hidden_states
        query = torch.cat(
            [heads(attn.to_q(hidden_states), attn.norm_q), heads(attn.add_q_proj(text), attn.norm_added_q)], 2
        )
        key = torch.cat(
            [heads(attn.to_k(hidden_states), attn.norm_k), heads(attn.add_k_proj(text), attn.norm_added_k)], 2
        )
        value = torch.cat([heads(attn.to_v(hidden_states)), heads(attn.add_v_proj(text))], 2)
        mask = None if attention_mask is None else attention_mask.to(query.dtype)
        read = scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        patches, tokens = read.to(query.dtype).split([hidden_states.shape[1], text.shape[1]], dim=1)
        for layer in attn.to_out:
            patches = layer(patches)
        return patches, tokens if attn.context_pre_only else attn.to_add_out(tokens)


def mask_attention_(denoiser: Any) -> None:
    """Let the joint attention of all blocks read a mask, if it does not yet."""
    for block in denoiser.transformer_blocks:
        if isinstance(block.attn.processor, JointAttnProcessor2_0):
            block.attn.set_processor(MaskedJointAttention())


def counted(length: int, count: int) -> Float[Tensor, "1 1 1 length"]:
    """Return the mask of `length` tokens of which the last stands for `count` equal ones: log count added to its score.

    In bfloat16 log 256 is rounded, and the token counts 252.5 times.
    """
    mask = torch.zeros(1, 1, 1, length)
    mask[..., -1] = torch.tensor(float(count)).log()
    return mask
