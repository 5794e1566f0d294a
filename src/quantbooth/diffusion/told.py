"""SDXL's conditions as one tensor: what its unet is told beside a sentence rides in a row of the sentence.

    text [b, length + 1, d]:    rows 0 .. length - 1    both encoders' hidden states, side by side
                                row length              pooled embedding, six numbers of size and crop, zeros

Sampling, tuning, calibration and measurement hand a sentence to the unet as one tensor, so they serve SDXL as they do
Stable Diffusion. A hook on the unet takes the row apart; a sentence without it, as diffusers' own pipelines hand over
with `added_cond_kwargs`, passes as it is. SDXL: Podell et al. 2023, arXiv 2307.01952, section 2.2 (size and crop).
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["SIZES", "is_told_sizes", "tell_sizes_", "with_sizes"]

SIZES = 6
"""Height and width the picture had, top and left of its crop, height and width it is to have, in pixels."""
KIND = "text_time"


def is_told_sizes(unet: Any) -> bool:
    """Whether a diffusers unet is of SDXL's kind."""
    return bool(unet.config.addition_embed_type == KIND)


def with_sizes(
    hidden: Float[Tensor, "b length d"], pooled: Float[Tensor, "b p"], side: int
) -> Float[Tensor, "b length1 d"]:
    """A sentence for a whole square picture of that side, uncropped."""
    sizes = pooled.new_tensor([side, side, 0, 0, side, side]).expand(len(pooled), SIZES)
    row = torch.cat([pooled, sizes], dim=1)
    return torch.cat([hidden, F.pad(row, (0, hidden.shape[-1] - row.shape[1]))[:, None]], dim=1)


def tell_sizes_(unet: Any, length: int) -> None:
    """Let a unet of SDXL's kind take sentences of `with_sizes`; another kind stays as it is.

    Args:
        unet: of diffusers.
        length: of a sentence in tokens.
    """
    if is_told_sizes(unet):
        pooled = unet.config.projection_class_embeddings_input_dim - SIZES * unet.config.addition_time_embed_dim
        unet.register_forward_pre_hook(_Apart(length, pooled), with_kwargs=True)


class _Apart:
    """The hook: the last row becomes `added_cond_kwargs`."""

    def __init__(self, length: int, pooled: int) -> None:
        self.length, self.pooled = length, pooled

    def __call__(
        self, _unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        text = args[2] if len(args) > 2 else kwargs["encoder_hidden_states"]
        if text.shape[1] != self.length + 1:
            return None
        row = text[:, self.length]
        told = {"text_embeds": row[:, : self.pooled], "time_ids": row[:, self.pooled : self.pooled + SIZES]}
        changed = {**kwargs, "encoder_hidden_states": text[:, : self.length], "added_cond_kwargs": told}
        return args[:2], changed
