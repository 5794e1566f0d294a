"""Bases with a transformer of true architecture with random weights, for `experiments.random_base`.

The numbers are those of the published configuration files; the counts of weights are asserted. No package brings
the tokenizers of T5 and Qwen: small ones of letters stand in for them, which read prompts, but not in the same tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.flux1 import Flux1
from quantbooth.diffusion.families.flux2 import Flux2Klein
from quantbooth.diffusion.families.pixart import PixArtSigma
from quantbooth.diffusion.families.sd3 import StableDiffusion3, StableDiffusion3WithoutT5
from quantbooth.diffusion.model import TextEncoder

__all__ = ["TRANSFORMERS", "Transformer", "random_transformer_base"]

Numbers = dict[str, Any]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;'\"-!?()"
SHIFT_3: Numbers = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


@dataclass(frozen=True)
class Transformer:
    """One architecture.

    Attributes:
        build: makes the base of these numbers, given the tokenizer of CLIP.
        denoiser: configuration of the transformer.
        weights: how many float weights it has.
        texts: configurations of the text encoders.
        vae: configuration of the autoencoder.
        scheduler: configuration of the scheduler.
    """

    build: Callable[["Transformer", str, Callable[..., CLIPTokenizer], torch.dtype], Base]
    denoiser: Numbers
    weights: int
    texts: tuple[Numbers, ...]
    vae: Numbers
    scheduler: Numbers


def t5_tokenizer(length: int = 512) -> T5Tokenizer:
    """A tokenizer of T5's class whose pieces are letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((letter, -3.0) for letter in LETTERS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)


def random_transformer_base(name: str, clip_tokenizer: Callable[..., CLIPTokenizer], dtype: torch.dtype) -> Base:
    """All parts of an architecture with weights drawn from torch's generator, in `dtype`.

    Raises:
        RuntimeError: when diffusers makes another number of weights than the published one.
    """
    numbers, usual = TRANSFORMERS[name], torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # so that a large one is never in memory in float32
    try:
        base = numbers.build(numbers, name, clip_tokenizer, dtype)
    finally:
        torch.set_default_dtype(usual)
    weights = sum(parameter.numel() for parameter in base.denoiser.parameters())
    if weights != numbers.weights:
        raise RuntimeError(f"the denoiser of {name} must have {numbers.weights} weights, diffusers makes {weights}")
    return base


def _sd3(numbers: Transformer, name: str, clip_tokenizer: Callable[..., CLIPTokenizer], dtype: torch.dtype) -> Base:
    encoders = []
    for number, (config, padding) in enumerate(zip(numbers.texts[:2], ({}, {"pad_token": "!"}), strict=True)):
        tokenizer = clip_tokenizer(**padding)
        special = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        act = {"hidden_act": ("quick_gelu", "gelu")[number]}
        network = CLIPTextModelWithProjection(CLIPTextConfig(**config, **special, **act)).to(dtype)
        encoders.append(TextEncoder(network, tokenizer))
    t5 = [TextEncoder(T5EncoderModel(T5Config(**config)).to(dtype), t5_tokenizer()) for config in numbers.texts[2:]]
    return Base(
        name=name,
        family=StableDiffusion3() if t5 else StableDiffusion3WithoutT5(),
        denoiser=SD3Transformer2DModel.from_config(numbers.denoiser).to(dtype),
        autoencoder=AutoencoderKL.from_config(numbers.vae).to(dtype),
        encoders=(*encoders, *t5),
        scheduler_config=dict(FlowMatchEulerDiscreteScheduler.from_config(numbers.scheduler).config),
    )


def qwen_tokenizer() -> Qwen2Tokenizer:
    """A tokenizer of Qwen's class whose tokens are bytes, with a chat template of one turn and no thinking."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: number for number, token in enumerate([*sorted(ByteLevel.alphabet()), *special])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=131_072)
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% if not enable_thinking %}-\n{% endif %}{% endif %}"
    )
    return tokenizer


def _klein(numbers: Transformer, name: str, _clip: Callable[..., CLIPTokenizer], dtype: torch.dtype) -> Base:
    (text,) = numbers.texts
    autoencoder = AutoencoderKLFlux2.from_config(numbers.vae)
    autoencoder.bn.running_mean.uniform_(-0.1, 0.1)
    autoencoder.bn.running_var.uniform_(0.5, 2)
    return Base(
        name=name,
        family=Flux2Klein(numbers.vae["sample_size"]),
        denoiser=Flux2Transformer2DModel.from_config(numbers.denoiser).to(dtype),
        autoencoder=autoencoder.to(dtype),
        encoders=(TextEncoder(Qwen3ForCausalLM(Qwen3Config(**text)).to(dtype), qwen_tokenizer()),),
        scheduler_config=dict(FlowMatchEulerDiscreteScheduler.from_config(numbers.scheduler).config),
    )


def _flux1(numbers: Transformer, name: str, clip_tokenizer: Callable[..., CLIPTokenizer], dtype: torch.dtype) -> Base:
    clip, t5 = numbers.texts
    tokenizer = clip_tokenizer()
    special = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return Base(
        name=name,
        family=Flux1(numbers.vae["sample_size"]),
        denoiser=FluxTransformer2DModel.from_config(numbers.denoiser).to(dtype),
        autoencoder=AutoencoderKL.from_config(numbers.vae).to(dtype),
        encoders=(
            TextEncoder(CLIPTextModel(CLIPTextConfig(**clip, **special)).to(dtype), tokenizer),
            TextEncoder(T5EncoderModel(T5Config(**t5)).to(dtype), t5_tokenizer()),
        ),
        scheduler_config=dict(FlowMatchEulerDiscreteScheduler.from_config(numbers.scheduler).config),
    )


def _pixart(numbers: Transformer, name: str, _clip: Callable[..., CLIPTokenizer], dtype: torch.dtype) -> Base:
    (text,) = numbers.texts
    return Base(
        name=name,
        family=PixArtSigma(),
        denoiser=PixArtTransformer2DModel.from_config(numbers.denoiser).to(dtype),
        autoencoder=AutoencoderKL.from_config(numbers.vae).to(dtype),
        encoders=(TextEncoder(T5EncoderModel(T5Config(**text)).to(dtype), t5_tokenizer()),),
        scheduler_config=dict(numbers.scheduler),
    )


TEXT: Numbers = {"vocab_size": 49_408, "max_position_embeddings": 77}
CLIP_L: Numbers = {
    **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, **TEXT},
    "projection_dim": 768,
}
CLIP_G: Numbers = {
    **{"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20, **TEXT},
    "projection_dim": 1280,
}
T5_XXL: Numbers = {
    **{"vocab_size": 32_128, "d_model": 4096, "d_kv": 64, "d_ff": 10_240, "num_layers": 24, "num_heads": 64},
    **{"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
SMALL_CLIP: Numbers = {
    **{"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, **TEXT},
    "projection_dim": 16,
}
SMALL_T5: Numbers = {**T5_XXL, "vocab_size": 128, "d_model": 56, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
VAE: Numbers = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
SMALL_VAE: Numbers = {**VAE, "block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}
SD35_MEDIUM: Numbers = {
    **{"sample_size": 128, "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24},
    **{"joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048},
    **{"pos_embed_max_size": 384, "dual_attention_layers": list(range(13)), "qk_norm": "rms_norm"},
}
TINY_SD3: Numbers = {
    **{"sample_size": 8, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4},
    **{"joint_attention_dim": 56, "caption_projection_dim": 32, "pooled_projection_dim": 32},
    **{"pos_embed_max_size": 8, "dual_attention_layers": [0], "qk_norm": "rms_norm"},
}
QWEN3_4B: Numbers = {
    **{"vocab_size": 151_936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True},
}
SMALL_QWEN: Numbers = {
    **{"vocab_size": 259, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 28},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True},
}
FLUX2_VAE: Numbers = {"block_out_channels": [128, 256, 512, 512], "latent_channels": 32, "sample_size": 1024}
SMALL_FLUX2_VAE: Numbers = {
    **{"block_out_channels": [8, 8, 8, 8], "latent_channels": 4, "sample_size": 64},
    **{"layers_per_block": 1, "norm_num_groups": 4},
}
KLEIN_4B: Numbers = {
    **{"in_channels": 128, "num_layers": 5, "num_single_layers": 20, "attention_head_dim": 128},
    **{"num_attention_heads": 24, "joint_attention_dim": 7680, "guidance_embeds": False},
}
TINY_KLEIN: Numbers = {
    **{"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16},
    **{"num_attention_heads": 2, "joint_attention_dim": 48, "guidance_embeds": False},
    **{"axes_dims_rope": [4, 4, 4, 4]},
}
FLUX1_DEV: Numbers = {
    **{"in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128},
    **{"num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True},
}
TINY_FLUX1: Numbers = {
    **{"in_channels": 64, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16},
    **{"num_attention_heads": 2, "joint_attention_dim": 56, "pooled_projection_dim": 24, "guidance_embeds": True},
    "axes_dims_rope": [4, 4, 8],
}
FLUX1_VAE: Numbers = {"scaling_factor": 0.3611, "shift_factor": 0.1159}
PIXART_SIGMA: Numbers = {
    **{"sample_size": 128, "num_layers": 28, "attention_head_dim": 72, "num_attention_heads": 16},
    **{"cross_attention_dim": 1152, "caption_channels": 4096, "interpolation_scale": 2},
    **{"in_channels": 4, "out_channels": 8, "use_additional_conditions": False},
}
TINY_PIXART: Numbers = {
    **{"sample_size": 8, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4},
    **{"cross_attention_dim": 32, "caption_channels": 56, "in_channels": 4, "out_channels": 8},
    **{"use_additional_conditions": False},
}
FOUR_CHANNELS: Numbers = {
    **{"latent_channels": 4, "scaling_factor": 0.13025, "shift_factor": None},
    **{"use_quant_conv": True, "use_post_quant_conv": True},
}
LINEAR: Numbers = {
    **{"_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 1000, "prediction_type": "epsilon"},
    **{"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
}
BY_TOKENS: Numbers = {**SHIFT_3, "use_dynamic_shifting": True}
TRANSFORMERS: dict[str, Transformer] = {
    "sd35-medium": Transformer(_sd3, SD35_MEDIUM, 2_243_171_520, (CLIP_L, CLIP_G, T5_XXL), VAE, SHIFT_3),
    "sd35-medium-without-t5": Transformer(_sd3, SD35_MEDIUM, 2_243_171_520, (CLIP_L, CLIP_G), VAE, SHIFT_3),
    "klein-4b": Transformer(_klein, KLEIN_4B, 3_875_544_576, (QWEN3_4B,), FLUX2_VAE, BY_TOKENS),
    "flux1-dev": Transformer(
        _flux1, FLUX1_DEV, 11_901_408_320, (CLIP_L, T5_XXL), {**VAE, **FLUX1_VAE, "sample_size": 1024}, BY_TOKENS
    ),
    "tiny-flux1": Transformer(
        _flux1, TINY_FLUX1, 82_176, (SMALL_CLIP, SMALL_T5), {**SMALL_VAE, **FLUX1_VAE, "sample_size": 64}, BY_TOKENS
    ),
    "pixart-sigma": Transformer(
        _pixart, PIXART_SIGMA, 610_856_096, (T5_XXL,), {**VAE, **FOUR_CHANNELS, "sample_size": 1024}, LINEAR
    ),
    "tiny-pixart": Transformer(_pixart, TINY_PIXART, 54_144, (SMALL_T5,), {**SMALL_VAE, **FOUR_CHANNELS}, LINEAR),
    "tiny-klein": Transformer(_klein, TINY_KLEIN, 69_216, (SMALL_QWEN,), SMALL_FLUX2_VAE, BY_TOKENS),
    "tiny-sd3-without-t5": Transformer(_sd3, TINY_SD3, 89_008, (SMALL_CLIP, SMALL_CLIP), SMALL_VAE, SHIFT_3),
    "tiny-sd3": Transformer(_sd3, TINY_SD3, 89_008, (SMALL_CLIP, SMALL_CLIP, SMALL_T5), SMALL_VAE, SHIFT_3),
}
