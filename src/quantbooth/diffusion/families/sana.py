"""Sana: a transformer of linear attention and convolutions by flow matching, and a Gemma 2 that reads prompts.

    tokens [b, 300, 2304]   last hidden states of the instruction's first and last tokens and of the prompt
    mask   [b, 300]         which of them are tokens; cross-attention reads these alone

A prompt, in lower case, follows the instruction of diffusers' pipeline ("Given a user prompt, ..."), except for the
empty one of guidance: the pipeline reads negative prompts without it, so that others are refused. The network gets
t = 1000 sigma; its scheduler is DPM-Solver's on flow sigmas, of which the shift is kept, or diffusers' of flows.
Xie et al. 2024, arXiv 2410.10629.
"""

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
from diffusers.models.transformers.sana_transformer import SanaTransformerBlock
from jaxtyping import Float
from torch import Tensor
from transformers import Gemma2Model, GemmaTokenizer

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.diffusers_folder import require_values
from quantbooth.diffusion.families.flow import FlowFamily
from quantbooth.diffusion.families.folder_config import CONFIG, latent_shape, require_numbers, text_configs, whole
from quantbooth.diffusion.families.masked_prompts import MASK, MaskedPromptFamily, lower
from quantbooth.diffusion.families.templates import hidden_states
from quantbooth.diffusion.flow_schedule import KIND
from quantbooth.diffusion.model import Shape, TextEncoder
from quantbooth.diffusion.prompt_length import require_room
from quantbooth.diffusion.scheduler_config import SCHEDULER_FILE

__all__ = ["Sana"]

WORDS = 300
"""Tokens of a prompt, of which the first, and the last of the instruction, are none of its own."""
DPM = DPMSolverMultistepScheduler.__name__
FLOW: dict[str, tuple[Any, ...]] = {
    **{"prediction_type": ("flow_prediction",), "use_flow_sigmas": (True,), "final_sigmas_type": ("zero", None)},
    **dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"), (False, None)),
    **dict.fromkeys(("use_lu_lambdas", "use_dynamic_shifting", "thresholding"), (False, None)),
}
"""Supported values of the DPM-Solver's keys that change its sigmas."""


@dataclass(frozen=True)
class Sana(MaskedPromptFamily, FlowFamily):
    """The family of `SanaPipeline`."""

    denoiser_class = SanaTransformer2DModel
    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = ((Gemma2Model, GemmaTokenizer),)
    large_texts = (Gemma2Model,)
    pipeline_class: ClassVar[Any] = SanaPipeline
    autoencoders: ClassVar[Mapping[str, Any]] = {"AutoencoderDC": AutoencoderDC}
    autoencoder_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {"in_channels": (3,)}
    float_layers = ("patch_embed.*", "time_embed.*", "caption_projection.*", "proj_out", "*.conv_depth")
    block_classes: ClassVar[tuple[type, ...]] = (SanaTransformerBlock,)
    scheduler_kinds: ClassVar[Collection[str]] = (KIND, DPM)
    negative_prompts = False
    denoiser_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **{"guidance_embeds": (False,), "interpolation_scale": (None,), "timestep_scale": (1.0, 1)},
    }

    def flow_config(self, scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the flow-matching scheduler's configuration with the shift of a DPM-Solver on flow sigmas.

        Raises:
            UserError: for a DPM-Solver on other sigmas, naming the file, the key and its value.
        """
        if scheduler_config.get("_class_name") != DPM:
            return dict(scheduler_config)
        require_values(SCHEDULER_FILE, {**dict.fromkeys(FLOW), **scheduler_config}, FLOW)
        kept = {"num_train_timesteps": scheduler_config.get("num_train_timesteps")}
        return {"_class_name": KIND, **kept, "shift": scheduler_config.get("flow_shift", 1.0)}

    # ---- text and pictures

    def require_whole(self, tokenizers: Sequence[Any], prompts: Iterable[str]) -> None:
        (tokenizer,) = tokenizers
        for prompt in dict.fromkeys(map(lower, prompts)):
            tokens = tokenizer.encode(prompt, add_special_tokens=False)
            require_room(prompt, tokens, WORDS - 2, tokenizer.decode, "the text encoder")

    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return the last hidden states of each prompt after the instruction, of the empty one without it."""
        (encoder,) = encoders
        self.require_whole([encoder.tokenizer], prompts)
        made = {prompt: _encoded(encoder, lower(prompt)) for prompt in dict.fromkeys(prompts)}
        return Conditioning.cat([made[prompt] for prompt in prompts])

    def pixels_per_latent(self, autoencoder: Any) -> int:
        return int(autoencoder.spatial_compression_ratio)

    def encode_images(self, autoencoder: Any, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c hl wl"]:
        return autoencoder.encode(images * 2 - 1).latent * autoencoder.config.scaling_factor

    # ---- files

    def examine(self, folder: Path) -> Shape:
        transformer, vae, factor = self.parts_config(folder)
        text_file, text, *_ = text_configs(folder, "text_encoder", "tokenizer")
        wanted = {
            "in_channels": (vae["latent_channels"], "latent_channels of vae/"),
            "out_channels": (vae["latent_channels"], "latent_channels of vae/"),
            "caption_channels": (whole(text_file, text, "hidden_size"), "hidden_size of text_encoder/"),
            "patch_size": (1, "each latent is a token"),
        }
        require_numbers(folder / self.component / CONFIG, transformer, wanted)
        latents = latent_shape(transformer, self.component)
        return Shape(latents, latents[-1] * factor, self.timesteps(folder))


def _encoded(encoder: TextEncoder, prompt: str) -> Conditioning:
    before = _instruction() if prompt else ""
    count = len(encoder.tokenizer.encode(before))
    states, mask = hidden_states(encoder, [before + prompt], -1, 0, count + WORDS - 2 if prompt else WORDS)
    kept = [0, *range(states.shape[1] - WORDS + 1, states.shape[1])]
    return Conditioning(states[:, kept], {MASK: mask[:, kept]})


@cache
def _instruction() -> str:
    """Return the instruction that diffusers' pipeline puts before a prompt."""
    return "\n".join(inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default)
