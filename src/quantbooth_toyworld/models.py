"""The configuration and untrained parts of the toy bases: tokenizer, text encoders, denoiser, autoencoder.

The flow base has the autoencoder of the toy base, a transformer, and two text encoders half as wide.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.sd3 import StableDiffusion3WithoutT5
from quantbooth.diffusion.families.stable_diffusion import StableDiffusion
from quantbooth.diffusion.model import TextEncoder
from quantbooth.diffusion.pretrained import new_autoencoder

__all__ = [
    *("DENOISER", "SCHEDULE", "TEXT_LENGTH", "TRANSFORMER", "fit_encoder_", "new_denoiser", "reduced_tokenizer"),
    *("untrained_base", "untrained_flow_base"),
]

TEXT_LENGTH = 26
TEXT_WIDTH = 128
LATENT_CHANNELS = 24
PATCH_CHANNELS = 48  # a 4 x 4 patch of 3 colours, rearranged by two stride-2 convolutions

SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "skip_prk_steps": True,
}

DENOISER: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}

FLOW: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0}

TRANSFORMER: dict[str, Any] = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "num_layers": 4,
    "attention_head_dim": 32,
    "num_attention_heads": 6,
    "caption_projection_dim": 192,
    "joint_attention_dim": TEXT_WIDTH,
    "pooled_projection_dim": TEXT_WIDTH,
    "pos_embed_max_size": 4,
    "qk_norm": "rms_norm",
}

AUTOENCODER: dict[str, Any] = {
    "latent_channels": LATENT_CHANNELS,
    "encoder_block_out_channels": (PATCH_CHANNELS,) * 3,
    "decoder_block_out_channels": (32, 32, 32),
    "num_encoder_blocks": (0, 0, 0),  # no nonlinearity: the encoder is exactly a projection of patches
    "num_decoder_blocks": (3, 2, 0),
    "scaling_factor": 2.5,  # stored latents are small, so that the decoder's own tanh bound does not bend them
}


def reduced_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Return CLIP's byte-pair tokenizer with only the merges that these words need; they split as in CLIP itself."""
    full = SimpleTokenizer()
    ends = [f"{word.lower()}</w>" for word in words]
    merges = [pair for pair in full.bpe_ranks if any("".join(pair) in word for word in ends)]
    characters = "abcdefghijklmnopqrstuvwxyz0123456789,.-'"
    tokens = [c + end for end in ("", "</w>") for c in characters] + ["".join(pair) for pair in merges]
    special = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate([*dict.fromkeys(tokens), *special])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_LENGTH)


def text_config(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextConfig:
    """Return the configuration of a CLIP text encoder with the reduced vocabulary."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def new_denoiser(config: Mapping[str, Any]) -> Any:
    """Return a denoiser of this configuration with random weights."""
    return StableDiffusion().new_denoiser(config)


def untrained_base(words: Iterable[str], seed: int) -> Base:
    """Return all parts of the toy base with random weights from the seed."""
    torch.manual_seed(seed)
    tokenizer = reduced_tokenizer(words)
    return Base(
        name="toy",
        family=StableDiffusion(),
        denoiser=new_denoiser(DENOISER),
        autoencoder=new_autoencoder(AUTOENCODER),
        encoders=(TextEncoder(CLIPTextModel(text_config(tokenizer, TEXT_WIDTH, 2)), tokenizer),),
        scheduler_config=dict(SCHEDULE),
    )


def untrained_flow_base(words: Iterable[str], seed: int, autoencoder: Any) -> Base:
    """Return all parts of the flow base, with random weights from the seed except those of the autoencoder."""
    torch.manual_seed(seed)
    tokenizer = reduced_tokenizer(words)
    networks = [CLIPTextModelWithProjection(text_config(tokenizer, TEXT_WIDTH // 2, 3)) for _ in range(2)]
    family = StableDiffusion3WithoutT5()
    return Base(
        name="toy_flow",
        family=family,
        denoiser=family.new_denoiser(TRANSFORMER),
        autoencoder=autoencoder,
        encoders=tuple(TextEncoder(network, tokenizer) for network in networks),
        scheduler_config=dict(FLOW),
    )


@torch.no_grad()
def fit_encoder_(autoencoder: Any, images: Float[Tensor, "n 3 h w"]) -> float:
    """Set the encoder to the principal components of 4 x 4 x 3 patches, half-whitened; return the variance they keep.

    With patches f, mean m, unit components v_i and standard deviations s_i along them, the scaled latents are
    z_i = v_i . (f - m) / sqrt(s_i * mean(s)): strong components remain stronger, and the mean variance is 1.

    Args:
        autoencoder: an ``AutoencoderTiny`` without encoder blocks: two stride-2 convolutions between two plain ones.
        images: in [0, 1].
    """
    first, half, quarter, project = autoencoder.encoder.layers
    for convolution in (first, half, quarter, project):
        convolution.weight.zero_()
    first.bias.zero_()
    for colour in range(3):
        first.weight[colour, colour, 1, 1] = 1
    _gather_quads_(half.weight, 3)
    _gather_quads_(quarter.weight, 12)
    patches = quarter(half(first(images))).permute(0, 2, 3, 1).reshape(-1, PATCH_CHANNELS)
    mean = patches.mean(0)
    variances, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
    kept = variances.argsort(descending=True)[:LATENT_CHANNELS]
    deviations, vectors = variances[kept].sqrt(), vectors[:, kept].T
    rows = vectors / (deviations * deviations.mean()).sqrt()[:, None] / autoencoder.config.scaling_factor
    project.weight[:, :, 1, 1] = rows
    project.bias.copy_(-rows @ mean)
    return float(variances[kept].sum() / variances.sum())


def _gather_quads_(weight: Tensor, channels: int) -> None:
    """Set a stride-2 3x3 convolution to copy the four pixels under each output into four channels."""
    for channel in range(channels):
        for dy in range(2):
            for dx in range(2):
                weight[channel * 4 + dy * 2 + dx, channel, 1 + dy, 1 + dx] = 1
