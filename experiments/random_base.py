"""Bases of true architecture with random weights: `python -m experiments.random_base --model sd15 --folder DIR`.

They draw noise, but load, calibrate, tune, sample and export as real ones do: to try a whole path before a download,
or where there is none. The numbers are those of the published configuration files; the counts of weights are asserted.
The tokenizer is CLIP's own, whose merges open_clip carries. `tiny`, `tiny-xl` and `tiny-NAME` of the bases in
`experiments.random_transformers` have the structure of the published ones; `clip` is a small open_clip folder.
"""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from experiments.bench.sizes import SIZES
from experiments.random_transformers import TRANSFORMERS, random_transformer_base
from quantbooth.diffusion.base import Base, frozen
from quantbooth.diffusion.families.sdxl import StableDiffusionXL
from quantbooth.diffusion.families.stable_diffusion import StableDiffusion
from quantbooth.diffusion.model import TextEncoder
from quantbooth.diffusion.pretrained import as_pipeline, save_base
from quantbooth_toyworld.models import SCHEDULE

__all__ = ["ARCHITECTURES", "main", "random_base", "write_clip", "write_configs"]

Architecture = dict[str, Any]
TEXT = {"vocab_size": 49_408, "max_position_embeddings": 77}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, **TEXT}
CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16, **TEXT}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20, **TEXT}
VAE: Architecture = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
SMALL_VAE: Architecture = {**VAE, "block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}
SMALL_CLIP = {**CLIP_L, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SD21_DENOISER: Architecture = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
TINY_XL_DENOISER: Architecture = {
    **SIZES["tiny"].config,
    "cross_attention_dim": 48,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 16,
}
ARCHITECTURES: dict[str, Architecture] = {
    "sd15": {"denoiser": SIZES["sd15"].config, "weights": 859_520_964, "text": CLIP_L, "vae": VAE},
    "sd21": {
        **{"denoiser": SD21_DENOISER, "weights": 865_910_724, "text": {**CLIP_H, "hidden_act": "gelu"}, "vae": VAE},
        "schedule": {"prediction_type": "v_prediction"},
    },
    "sdxl": {
        **{"denoiser": SIZES["sdxl"].config, "weights": 2_567_463_684, "text": {**CLIP_L, "hidden_act": "quick_gelu"}},
        **{"vae": {**VAE, "scaling_factor": 0.13025, "sample_size": 1024}},
        "second": {**CLIP_G, "hidden_act": "gelu", "projection_dim": 1280},
    },
    "tiny": {"denoiser": SIZES["tiny"].config, "weights": 201_924, "text": SMALL_CLIP, "vae": SMALL_VAE},
    "tiny-xl": {
        **{"denoiser": TINY_XL_DENOISER, "weights": None, "text": SMALL_CLIP, "vae": SMALL_VAE},
        "second": {**SMALL_CLIP, "projection_dim": 16},
    },
}
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def write_clip(folder: Path) -> None:
    """A folder as open_clip reads it (`local-dir:FOLDER`), of a small CLIP with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": numbers}))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**CLIP).state_dict(), folder / "open_clip_model.safetensors")


def random_base(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Base:
    """All parts of an architecture with random weights that the seed decides, each in `dtype` once it is drawn.

    Raises:
        RuntimeError: when diffusers makes another number of weights of the denoiser's numbers than the published one.
    """
    torch.manual_seed(seed)
    if name in TRANSFORMERS:
        return frozen(random_transformer_base(name, clip_tokenizer, dtype))
    parts = ARCHITECTURES[name]
    denoiser = UNet2DConditionModel.from_config(parts["denoiser"])
    weights = sum(parameter.numel() for parameter in denoiser.parameters())
    if parts["weights"] not in (None, weights):
        raise RuntimeError(f"the denoiser of {name} must have {parts['weights']} weights, diffusers makes {weights}")
    tokenizer = clip_tokenizer()
    autoencoder = AutoencoderKL.from_config(parts["vae"]).to(dtype)
    first = CLIPTextModel(_text(parts["text"], tokenizer)).to(dtype)
    others = [_second(parts["second"], dtype)] if "second" in parts else []
    made = Base(
        name=name,
        family=StableDiffusionXL() if others else StableDiffusion(),
        denoiser=denoiser.to(dtype),
        autoencoder=autoencoder,
        encoders=(TextEncoder(first, tokenizer), *others),
        scheduler_config={**SCHEDULE, **parts.get("schedule", {})},
    )
    return frozen(made)


def clip_tokenizer(**options: Any) -> CLIPTokenizer:
    """CLIP's tokenizer: 256 bytes, the same at the ends of words, 48,894 merges, two special tokens."""
    full = SimpleTokenizer()
    vocabulary = {token.replace("<start_of_text>", "<|startoftext|>"): i for token, i in full.encoder.items()}
    vocabulary = {token.replace("<end_of_text>", "<|endoftext|>"): i for token, i in vocabulary.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=list(full.bpe_ranks), model_max_length=77, **options)


def _second(numbers: Architecture, dtype: torch.dtype) -> TextEncoder:
    tokenizer = clip_tokenizer(pad_token="!")  # as SDXL's second
    encoder = CLIPTextModelWithProjection(_text(numbers, tokenizer)).to(dtype)
    return TextEncoder(encoder, tokenizer)


def _text(numbers: Architecture, tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return CLIPTextConfig(**numbers, **special)


def write_configs(name: str, folder: Path) -> None:
    """Write the folder of an architecture without its weights: what a plan reads, of any size in no memory."""
    with torch.device("meta"):
        base = random_base(name)
    for network in base.text_encoders:
        if isinstance(network, base.family.large_texts):
            network.config.dtype = torch.float16  # as their published files
    pipeline = as_pipeline(base)
    pipeline.save_config(str(folder))
    for part, value in pipeline.components.items():
        if value is not None:
            save = getattr(value, "save_config", None) or getattr(value, "config", value).save_pretrained
            save(str(folder / part))


def main() -> int:
    """The program; the exit code."""
    parser = ArgumentParser("experiments.random_base", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=[*ARCHITECTURES, *TRANSFORMERS, "clip"], default="sd15")
    parser.add_argument("--folder", type=Path, required=True, help="where the diffusers folder is made")
    parser.add_argument("--precision", choices=["float32", "float16"], default="float16", help="of its files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--configs", action="store_true", help="no weights, for quantbooth-plan")
    options = parser.parse_args()
    if options.folder.exists() and any(options.folder.iterdir()):
        sys.stderr.write(f"random_base: {options.folder} is not empty; choose another --folder\n")
        return 2
    if options.model == "clip":
        write_clip(options.folder)
        return 0
    if options.configs:
        write_configs(options.model, options.folder)
        return 0
    dtype = getattr(torch, options.precision)
    save_base(random_base(options.model, options.seed, dtype), options.folder, dtype)
    return 0


if __name__ == "__main__":
    sys.exit(main())
