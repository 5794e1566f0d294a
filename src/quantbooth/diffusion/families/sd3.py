"""Stable Diffusion 3 and 3.5: a multimodal transformer by flow matching, two CLIP text encoders and a T5.

    tokens [b, 77 + 256, 4096]   penultimate states of both CLIPs side by side, padded by zeros; after them T5's states
    pooled [b, 2048]             projected embeddings of both CLIPs

Without T5 (`text_encoder_3` is null) diffusers' pipeline gives 256 tokens of zeros instead. Equal tokens without places
stay equal in all blocks, so one of them is computed, and attention counts it 256 times.

    tokens [b, 77, 2048]         states of both CLIPs side by side
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.folder_config import CONFIG, require_numbers, text_configs, whole
from quantbooth.diffusion.families.joint_attention import counted, mask_attention_
from quantbooth.diffusion.families.sd3_base import StableDiffusion3Family
from quantbooth.diffusion.model import Family, TextEncoder
from quantbooth.runtime.errors import UserError

__all__ = ["StableDiffusion3", "StableDiffusion3WithoutT5"]

POOLED = "pooled"
T5_TOKENS = 256
"""Of a prompt that diffusers' pipeline reads by default."""
CLIP: tuple[Any, Any] = (CLIPTextModelWithProjection, CLIPTokenizer)
THIRD = ("text_encoder_3", "tokenizer_3")


@dataclass(frozen=True)
class StableDiffusion3(StableDiffusion3Family):
    """The family of `StableDiffusion3Pipeline`."""

    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = (CLIP, CLIP, (T5EncoderModel, T5Tokenizer))
    large_texts = (T5EncoderModel,)
    text_lengths = (None, None, T5_TOKENS)

    @classmethod
    def from_folder(cls, folder: Path, index: Mapping[str, Any]) -> Family:
        """Return the family without T5 where both its parts are null."""
        return StableDiffusion3WithoutT5() if all(index.get(part) == [None, None] for part in THIRD) else cls()

    def predict(
        self,
        denoiser: Any,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        return self.call(denoiser, x_t, t, conditioning.tokens, conditioning.extra[POOLED])

    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return the states of all encoders, and the pooled embeddings of the CLIPs."""
        *clips, t5 = encoders
        states, pooled = _encoded(clips, prompts)
        words = t5.network(t5.ids(prompts, T5_TOKENS))[0]
        padded = pad(states, (0, words.shape[-1] - states.shape[-1]))
        return Conditioning(torch.cat([padded, words.to(padded)], dim=1), {POOLED: pooled})

    def require_width(self, folder: Path, found: int, clips: int) -> None:
        file, t5, *_ = text_configs(folder, *THIRD)
        wanted = {"joint_attention_dim": (whole(file, t5, "d_model"), "d_model of text_encoder_3/")}
        require_numbers(folder / self.component / CONFIG, {"joint_attention_dim": found}, wanted)


@dataclass(frozen=True)
class StableDiffusion3WithoutT5(StableDiffusion3Family):
    """The family of `StableDiffusion3Pipeline` whose `text_encoder_3` and `tokenizer_3` are null."""

    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = (CLIP, CLIP)
    absent_parts = THIRD

    def predict(
        self,
        denoiser: Any,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return transformer(x_t, 1000 sigma, [tokens, 0], pooled), the last token counted 256 times."""
        mask_attention_(denoiser)
        states = conditioning.tokens
        tokens = pad(states, (0, denoiser.config.joint_attention_dim - states.shape[-1], 0, 1))
        patches = x_t.shape[-2] * x_t.shape[-1] // denoiser.config.patch_size**2
        mask = counted(patches + tokens.shape[1], T5_TOKENS).to(x_t.device)
        options = {"joint_attention_kwargs": {"attention_mask": mask}}
        return self.call(denoiser, x_t, t, tokens, conditioning.extra[POOLED], **options)

    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return the states and the pooled embeddings of both CLIPs."""
        states, pooled = _encoded(encoders, prompts)
        return Conditioning(states, {POOLED: pooled})

    def require_width(self, folder: Path, found: int, clips: int) -> None:
        if found < clips:
            raise UserError(
                f"{folder / self.component / CONFIG}: joint_attention_dim must be {clips} or more, the width of both "
                f"CLIPs, found {found}"
            )


def _encoded(clips: Sequence[TextEncoder], prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the penultimate states and the projected embeddings of the CLIPs, side by side."""
    found = [clip.network(clip.ids(prompts), output_hidden_states=True) for clip in clips]
    return torch.cat([one.hidden_states[-2] for one in found], -1), torch.cat([one.text_embeds for one in found], -1)
