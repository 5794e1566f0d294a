"""Bases with a transformer of true architecture with random weights, for `experiments.random_base`.

The numbers are those of the published configuration files; the counts of weights are asserted. No package brings
the tokenizers of T5 and Qwen: small ones of letters stand in for them, which read prompts, but not in the same tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer, GemmaTokenizer, Qwen2Tokenizer, T5Tokenizer

from experiments import transformer_numbers as n
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.chroma import Chroma
from quantbooth.diffusion.families.flux1 import Flux1
from quantbooth.diffusion.families.flux2 import Flux2Klein
from quantbooth.diffusion.families.pixart import PixArtSigma
from quantbooth.diffusion.families.qwen_image import QwenImage
from quantbooth.diffusion.families.sana import Sana
from quantbooth.diffusion.families.sd3 import StableDiffusion3, StableDiffusion3WithoutT5
from quantbooth.diffusion.families.zimage import ZImage
from quantbooth.diffusion.model import Family, TextEncoder

__all__ = ["TRANSFORMERS", "Transformer", "random_transformer_base"]

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;'\"-!?()"


@dataclass(frozen=True)
class Transformer:
    """One architecture.

    Attributes:
        family: of its pipeline.
        denoiser: configuration of the transformer.
        weights: how many float weights it has.
        texts: configurations of the text encoders.
        vae: configuration of the autoencoder.
        scheduler: configuration of the scheduler.
    """

    family: Family
    denoiser: n.Numbers
    weights: int
    texts: tuple[n.Numbers, ...]
    vae: n.Numbers
    scheduler: n.Numbers


def t5_tokenizer(length: int = 512) -> T5Tokenizer:
    """A tokenizer of T5's class whose pieces are letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((letter, -3.0) for letter in LETTERS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)


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


def gemma_tokenizer() -> GemmaTokenizer:
    """A tokenizer of Gemma's class whose tokens are bytes."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    return GemmaTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, model_max_length=8192, add_bos_token=True
    )


def random_transformer_base(name: str, clip_tokenizer: Callable[..., CLIPTokenizer], dtype: torch.dtype) -> Base:
    """All parts of an architecture with weights drawn from torch's generator, in `dtype`.

    Raises:
        RuntimeError: when diffusers makes another number of weights than the published one.
    """
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # so that a large one is never in memory in float32
    try:
        base = _base(name, clip_tokenizer, dtype)
    finally:
        torch.set_default_dtype(usual)
    found, wanted = sum(parameter.numel() for parameter in base.denoiser.parameters()), TRANSFORMERS[name].weights
    if found != wanted:
        raise RuntimeError(f"the denoiser of {name} must have {wanted} weights, diffusers makes {found}")
    return base


def _base(name: str, clip_tokenizer: Callable[..., CLIPTokenizer], dtype: torch.dtype) -> Base:
    made = TRANSFORMERS[name]
    family = made.family
    kind = next(iter(family.autoencoders.values()))
    autoencoder, scheduler_config = kind.from_config(made.vae), dict(made.scheduler)
    if isinstance(autoencoder, AutoencoderKLFlux2):
        autoencoder.bn.running_mean.uniform_(-0.1, 0.1)
        autoencoder.bn.running_var.uniform_(0.5, 2)
    if scheduler_config["_class_name"] == FlowMatchEulerDiscreteScheduler.__name__:
        scheduler_config = dict(FlowMatchEulerDiscreteScheduler.from_config(scheduler_config).config)
    texts = zip(family.text_classes, made.texts, strict=True)
    return Base(
        name=name,
        family=family,
        denoiser=family.denoiser_class.from_config(made.denoiser).to(dtype),
        autoencoder=autoencoder.to(dtype),
        encoders=tuple(_encoder(*classes, dict(text), clip_tokenizer, dtype) for classes, text in texts),
        scheduler_config=scheduler_config,
    )


def _encoder(
    network: Any, tokenizer: Any, config: n.Numbers, clip_tokenizer: Callable[..., CLIPTokenizer], dtype: torch.dtype
) -> TextEncoder:
    if issubclass(tokenizer, CLIPTokenizer):
        padding = config.pop("pad_token", None)
        words: Any = clip_tokenizer(**({} if padding is None else {"pad_token": padding}))
        config |= {key: getattr(words, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    else:
        words = {T5Tokenizer: t5_tokenizer, Qwen2Tokenizer: qwen_tokenizer, GemmaTokenizer: gemma_tokenizer}[
            tokenizer
        ]()
    return TextEncoder(network(network.config_class(**config)).to(dtype), words)


TOKENIZERS: dict[Any, Callable[[], Any]] = {
    T5Tokenizer: t5_tokenizer,
    Qwen2Tokenizer: qwen_tokenizer,
    GemmaTokenizer: gemma_tokenizer,
}
TRANSFORMERS: dict[str, Transformer] = {
    "sd35-medium": Transformer(
        StableDiffusion3(), n.SD35_MEDIUM, 2_243_171_520, (n.CLIP_L, n.CLIP_G, n.T5_XXL), n.VAE, n.SHIFT_3
    ),
    "sd35-medium-without-t5": Transformer(
        StableDiffusion3WithoutT5(), n.SD35_MEDIUM, 2_243_171_520, (n.CLIP_L, n.CLIP_G), n.VAE, n.SHIFT_3
    ),
    "sd35-large": Transformer(
        StableDiffusion3(), n.SD35_LARGE, 8_056_627_520, (n.CLIP_L, n.CLIP_G, n.T5_XXL), n.VAE, n.SHIFT_3
    ),
    "tiny-sd3": Transformer(
        StableDiffusion3(), n.TINY_SD3, 89_008, (n.SMALL_CLIP, n.SMALL_CLIP_G, n.SMALL_T5), n.SMALL_VAE, n.SHIFT_3
    ),
    "tiny-sd3-without-t5": Transformer(
        StableDiffusion3WithoutT5(), n.TINY_SD3, 89_008, (n.SMALL_CLIP, n.SMALL_CLIP_G), n.SMALL_VAE, n.SHIFT_3
    ),
    "klein-4b": Transformer(Flux2Klein(), n.KLEIN_4B, 3_875_544_576, (n.QWEN3_4B,), n.FLUX2_VAE, n.BY_TOKENS),
    "tiny-klein": Transformer(Flux2Klein(64), n.TINY_KLEIN, 69_216, (n.SMALL_QWEN,), n.SMALL_FLUX2_VAE, n.BY_TOKENS),
    "flux1-dev": Transformer(Flux1(), n.FLUX1_DEV, 11_901_408_320, (n.CLIP_L, n.T5_XXL), n.FLUX1_VAE, n.BY_TOKENS),
    "tiny-flux1": Transformer(
        Flux1(64), n.TINY_FLUX1, 82_176, (n.SMALL_CLIP, n.SMALL_T5), n.SMALL_FLUX1_VAE, n.BY_TOKENS
    ),
    "pixart-sigma": Transformer(PixArtSigma(), n.PIXART_SIGMA, 610_856_096, (n.T5_XXL,), n.PIXART_VAE, n.LINEAR),
    "tiny-pixart": Transformer(PixArtSigma(), n.TINY_PIXART, 54_144, (n.SMALL_T5,), n.SMALL_PIXART_VAE, n.LINEAR),
    "qwen-image": Transformer(QwenImage(), n.QWEN_IMAGE, 20_430_401_088, (n.QWEN_VL_7B,), n.QWEN_VAE, n.QWEN_SHIFT),
    "tiny-qwen-image": Transformer(
        QwenImage(64), n.TINY_QWEN_IMAGE, 195_376, (n.SMALL_QWEN_VL,), n.SMALL_QWEN_VAE, n.QWEN_SHIFT
    ),
    "chroma": Transformer(Chroma(), n.CHROMA, 8_899_983_424, (n.T5_XXL,), n.FLUX1_VAE, n.BY_TOKENS),
    "tiny-chroma": Transformer(Chroma(64), n.TINY_CHROMA, 47_296, (n.SMALL_T5,), n.SMALL_FLUX1_VAE, n.BY_TOKENS),
    "zimage": Transformer(ZImage(), n.ZIMAGE, 6_154_908_736, (n.QWEN3_4B,), n.FLUX1_VAE, n.SHIFT_3),
    "tiny-zimage": Transformer(ZImage(64), n.TINY_ZIMAGE, 364_176, (n.SMALL_QWEN,), n.SMALL_FLUX1_VAE, n.SHIFT_3),
    "sana": Transformer(Sana(), n.SANA, 1_604_462_752, (n.GEMMA2_2B,), n.SANA_VAE, n.DPM_FLOW),
    "tiny-sana": Transformer(Sana(), n.TINY_SANA, 16_804, (n.SMALL_GEMMA2,), n.SMALL_SANA_VAE, n.SHIFT_3),
}
