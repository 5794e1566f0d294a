"""What files of a transformer's base may not say: refused with the file, the key and its value, family by family."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.transformer_numbers import DPM_FLOW
from quantbooth.diffusion.pretrained import check_base
from quantbooth.runtime.errors import UserError

MAIN, VAE, INDEX = "transformer/config.json", "vae/config.json", "model_index.json"
SCHEDULER, WORDS, THIRD = "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder_3/config.json"
REFUSED: dict[str, list[tuple[str, dict[str, Any], str]]] = {
    "tiny-sd3": [
        (MAIN, {"in_channels": 4}, "in_channels must be 16 as latent_channels of vae/, found 4"),
        (MAIN, {"joint_attention_dim": 64}, "joint_attention_dim must be 56 as d_model of text_encoder_3/, found 64"),
        (MAIN, {"pooled_projection_dim": 16}, "pooled_projection_dim must be 32 as the projections of both CLIPs"),
        (MAIN, {"sample_size": 18}, "sample_size must be even and at most 2 x pos_embed_max_size = 16 .* found 18"),
        (MAIN, {"sample_size": 7}, "sample_size must be even .* found 7"),
        (MAIN, {"patch_size": 4}, "with patch_size = 2, found 8 and 4"),
        (MAIN, {"guidance_embeds": True}, 'says "guidance_embeds" = true, which SD3Transformer2DModel does not have'),
        (VAE, {"out_channels": 4}, "out_channels must be 3 to be supported, found 4"),
        (VAE, {"scaling_factor": 0}, "scaling_factor must be a number above 0, found 0"),
        (THIRD, {"d_model": None}, "d_model must be a whole number above 0, found null"),
        (SCHEDULER, {"_class_name": "DDIMScheduler"}, "_class_name must be .FlowMatchEulerDiscreteScheduler. to be"),
        (SCHEDULER, {"num_train_timesteps": 500}, "num_train_timesteps must be 1000, found 500"),
        (
            INDEX,
            {"text_encoder_3": [None, None]},
            "text_encoder_3 must be one of T5EncoderModel, found .null",
        ),
        (INDEX, {"scheduler": ["diffusers", "DDIMScheduler"]}, "scheduler must be one of FlowMatchEuler"),
    ],
    "tiny-flux1": [
        (MAIN, {"guidance_embeds": False}, "guidance_embeds must be true to be supported, found false"),
        (MAIN, {"patch_size": 2}, "patch_size must be 1 to be supported, found 2"),
        (MAIN, {"in_channels": 16}, "in_channels must be 64 as 4 x latent_channels of vae/, found 16"),
        (MAIN, {"joint_attention_dim": 32}, "joint_attention_dim must be 56 as d_model of text_encoder_2/, found 32"),
        (MAIN, {"pooled_projection_dim": 16}, "pooled_projection_dim must be 24 as hidden_size of text_encoder/"),
        (VAE, {"sample_size": 72}, "sample_size must be a multiple of 16 .*, found 72"),
        (VAE, {"block_out_channels": [8, 8, 8]}, "sample_size must be a multiple of 16 with 4 .* downsampling by 4"),
        (VAE, {"sample_size": "64"}, "sample_size must be a whole number above 0"),
        (INDEX, {"text_encoder_2": [None, None]}, "text_encoder_2 must be one of T5EncoderModel, found .null"),
        (INDEX, {"scheduler": ["diffusers", "DDIMScheduler"]}, "scheduler must be one of FlowMatchEuler"),
    ],
    "tiny-klein": [
        (MAIN, {"guidance_embeds": True}, "guidance_embeds must be false to be supported, found true"),
        (MAIN, {"patch_size": 2}, "patch_size must be 1 to be supported, found 2"),
        (MAIN, {"in_channels": 64}, "in_channels must be 16 as 4 x latent_channels of vae/, found 64"),
        (MAIN, {"joint_attention_dim": 16}, "joint_attention_dim must be 48 as 3 x hidden_size of text_encoder/"),
        (VAE, {"sample_size": 72}, "sample_size must be a multiple of 16, found 72"),
        (VAE, {"sample_size": "64"}, "sample_size must be a whole number above 0"),
        (VAE, {"patch_size": [1, 1]}, r"patch_size must be \[2, 2\]"),
        (WORDS, {"num_hidden_layers": 12}, "num_hidden_layers must be 27 or more, found 12"),
        (INDEX, {"is_distilled": True}, "is_distilled must be false or null to be supported, found true"),
        (INDEX, {"vae": ["diffusers", "AutoencoderKL"]}, "vae must be one of AutoencoderKLFlux2"),
    ],
    "tiny-qwen-image": [
        (MAIN, {"guidance_embeds": True}, "guidance_embeds must be false to be supported, found true"),
        (MAIN, {"zero_cond_t": True}, "zero_cond_t must be false to be supported, found true"),
        (MAIN, {"patch_size": 1}, "patch_size must be 2 to be supported, found 1"),
        (MAIN, {"in_channels": 16}, "in_channels must be 64 as 4 x z_dim of vae/, found 16"),
        (MAIN, {"joint_attention_dim": 32}, "joint_attention_dim must be 16 as hidden_size of text_encoder/, found 32"),
        (VAE, {"sample_size": 72}, "sample_size must be a multiple of 16 .*, found 72"),
        (VAE, {"dim_mult": [1, 2]}, "sample_size must be a multiple of 16 with 4 .* downsampling by 2"),
        (VAE, {"z_dim": 0}, "z_dim must be a whole number above 0, found 0"),
        (VAE, {"input_channels": 4}, "input_channels must be 3 to be supported, found 4"),
        (VAE, {"latent_channels": 4}, '"latent_channels" = 4, which AutoencoderKLQwenImage does not have'),
        (INDEX, {"vae": ["diffusers", "AutoencoderKL"]}, "vae must be one of AutoencoderKLQwenImage"),
        (INDEX, {"processor": ["transformers", "Qwen2VLProcessor"]}, "which QwenImagePipeline does not have"),
    ],
    "tiny-chroma": [
        (MAIN, {"patch_size": 2}, "patch_size must be 1 to be supported, found 2"),
        (MAIN, {"guidance_embeds": True}, '"guidance_embeds" = true, which ChromaTransformer2DModel does not have'),
        (MAIN, {"in_channels": 16}, "in_channels must be 64 as 4 x latent_channels of vae/, found 16"),
        (MAIN, {"joint_attention_dim": 32}, "joint_attention_dim must be 56 as d_model of text_encoder/, found 32"),
        (VAE, {"sample_size": 72}, "sample_size must be a multiple of 16 .*, found 72"),
        (INDEX, {"text_encoder": ["transformers", "CLIPTextModel"]}, "text_encoder must be one of T5EncoderModel"),
        (INDEX, {"scheduler": ["diffusers", "DDIMScheduler"]}, "scheduler must be one of FlowMatchEuler"),
    ],
    "tiny-zimage": [
        (MAIN, {"all_patch_size": [2, 4]}, r"all_patch_size must be \[2\] .*, found \[2, 4\]"),
        (MAIN, {"siglip_feat_dim": 16}, "siglip_feat_dim must be null to be supported, found 16"),
        (MAIN, {"in_channels": 64}, "in_channels must be 16 as latent_channels of vae/, found 64"),
        (MAIN, {"cap_feat_dim": 32}, "cap_feat_dim must be 16 as hidden_size of text_encoder/, found 32"),
        (VAE, {"sample_size": 72}, "sample_size must be a multiple of 16 .*, found 72"),
        (INDEX, {"text_encoder": ["transformers", "Qwen3ForCausalLM"]}, "text_encoder must be one of Qwen3Model"),
    ],
    "tiny-sana": [
        (MAIN, {"guidance_embeds": True}, "guidance_embeds must be false to be supported, found true"),
        (MAIN, {"timestep_scale": 0.001}, "timestep_scale must be 1.0 .* found 0.001"),
        (MAIN, {"interpolation_scale": 2.0}, "interpolation_scale must be null to be supported, found 2.0"),
        (MAIN, {"in_channels": 8}, "in_channels must be 4 as latent_channels of vae/, found 8"),
        (MAIN, {"out_channels": 8}, "out_channels must be 4 as latent_channels of vae/, found 8"),
        (MAIN, {"caption_channels": 32}, "caption_channels must be 16 as hidden_size of text_encoder/, found 32"),
        (MAIN, {"patch_size": 2}, "patch_size must be 1 as each latent is a token, found 2"),
        (VAE, {"decoder_block_out_channels": [8, 8]}, "must be of one length, found"),
        (INDEX, {"vae": ["diffusers", "AutoencoderKL"]}, "vae must be one of AutoencoderDC"),
        (INDEX, {"scheduler": ["diffusers", "SCMScheduler"]}, "scheduler must be one of FlowMatchEuler"),
        (
            SCHEDULER,
            {**DPM_FLOW, "use_flow_sigmas": False},
            "use_flow_sigmas must be true .* found false",
        ),
        (SCHEDULER, {**DPM_FLOW, "prediction_type": "epsilon"}, 'prediction_type must be "flow_prediction"'),
        (SCHEDULER, {**DPM_FLOW, "use_karras_sigmas": True}, "use_karras_sigmas must be false or null"),
    ],
    "tiny-pixart": [
        (MAIN, {"in_channels": 8}, "in_channels must be 4 as latent_channels of vae/, found 8"),
        (MAIN, {"out_channels": 4}, "out_channels must be 8 as noise and variance of latent_channels of vae/, found 4"),
        (MAIN, {"caption_channels": 32}, "caption_channels must be 56 as d_model of text_encoder/, found 32"),
        (MAIN, {"sample_size": 7}, "sample_size must be a multiple of patch_size = 2, found 7"),
        (MAIN, {"use_additional_conditions": True}, "use_additional_conditions must be false"),
        (MAIN, {"use_additional_conditions": None, "sample_size": 128}, "use_additional_conditions must be false"),
        (MAIN, {"_class_name": "DiTTransformer2DModel"}, '_class_name must be "PixArtTransformer2DModel" or "Trans'),
        (MAIN, {"num_vector_embeds": 4}, "num_vector_embeds must be null to be supported, found 4"),
        (MAIN, {"num_classes": 4}, '"num_classes" = 4, which PixArtTransformer2DModel does not have'),
        (VAE, {"shift_factor": 0.1}, "shift_factor must be null or 0 to be supported, found 0.1"),
        (WORDS, {"d_model": None}, "d_model must be a whole number above 0, found null"),
        (INDEX, {"vae": ["diffusers", "AutoencoderTiny"]}, "vae must be one of AutoencoderKL, found"),
        (INDEX, {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, "scheduler must be one of DDIM"),
    ],
}


@pytest.mark.parametrize(
    ("name", "file", "change", "says"), [(name, *row) for name, rows in REFUSED.items() for row in rows], ids=str
)
def test_what_is_not_supported_is_refused_by_file_and_key(
    written: Callable[[str], Path], edited: Callable[..., Path], name: str, file: str, change: dict[str, Any], says: str
) -> None:
    copy = edited(written(name), file, change, weights=False)
    with pytest.raises(UserError, match=f"{Path(file).name}.*{says}"):
        check_base(copy, 64, 1000)
