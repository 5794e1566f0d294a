"""Numbers of transformers, text encoders, autoencoders and schedulers, as their published configuration files say them.

Those that begin with TINY or SMALL are of the same architectures with few weights.
"""

from typing import Any

Numbers = dict[str, Any]
SHIFT_3: Numbers = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
TEXT: Numbers = {"vocab_size": 49_408, "max_position_embeddings": 77}
CLIP_L: Numbers = {
    **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, **TEXT},
    "projection_dim": 768,
}
CLIP_G: Numbers = {
    **{"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20, **TEXT},
    **{"projection_dim": 1280, "hidden_act": "gelu", "pad_token": "!"},
}
T5_XXL: Numbers = {
    **{"vocab_size": 32_128, "d_model": 4096, "d_kv": 64, "d_ff": 10_240, "num_layers": 24, "num_heads": 64},
    **{"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
SMALL_CLIP: Numbers = {
    **{"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, **TEXT},
    "projection_dim": 16,
}
SMALL_CLIP_G: Numbers = {**SMALL_CLIP, "hidden_act": "gelu", "pad_token": "!"}
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
SMALL: Numbers = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}
SMALL_VAE: Numbers = {**VAE, **SMALL}
SD35_MEDIUM: Numbers = {
    **{"sample_size": 128, "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24},
    **{"joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048},
    **{"pos_embed_max_size": 384, "dual_attention_layers": list(range(13)), "qk_norm": "rms_norm"},
}
SD35_LARGE: Numbers = {
    **{"sample_size": 128, "num_layers": 38, "attention_head_dim": 64, "num_attention_heads": 38},
    **{"joint_attention_dim": 4096, "caption_projection_dim": 2432, "pooled_projection_dim": 2048},
    **{"pos_embed_max_size": 192, "dual_attention_layers": [], "qk_norm": "rms_norm"},
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
FLUX1_VAE: Numbers = {**VAE, "scaling_factor": 0.3611, "shift_factor": 0.1159, "sample_size": 1024}
SMALL_FLUX1_VAE: Numbers = {**FLUX1_VAE, **SMALL, "sample_size": 64}
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
PIXART_VAE: Numbers = {
    **VAE,
    **{"latent_channels": 4, "scaling_factor": 0.13025, "shift_factor": None},
    **{"use_quant_conv": True, "use_post_quant_conv": True, "sample_size": 1024},
}
SMALL_PIXART_VAE: Numbers = {**PIXART_VAE, **SMALL, "sample_size": 64}
LINEAR: Numbers = {
    **{"_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 1000, "prediction_type": "epsilon"},
    **{"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
}
BY_TOKENS: Numbers = {**SHIFT_3, "use_dynamic_shifting": True}
QWEN_IMAGE: Numbers = {
    **{"in_channels": 64, "out_channels": 16, "num_layers": 60, "attention_head_dim": 128, "num_attention_heads": 24},
    "joint_attention_dim": 3584,
}
TINY_QWEN_IMAGE: Numbers = {
    **{"in_channels": 64, "out_channels": 16, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 3},
    **{"joint_attention_dim": 16, "axes_dims_rope": [8, 4, 4]},
}
QWEN_VL_7B: Numbers = {
    "text_config": {
        **{"vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28},
        **{"num_attention_heads": 28, "num_key_value_heads": 4},
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
}
SMALL_QWEN_VL: Numbers = {
    "text_config": {
        **{"vocab_size": 259, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 1},
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [2, 1, 1]},
    },
    "vision_config": {
        **{"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 16},
        "fullatt_block_indexes": [0],
    },
}
QWEN_VAE: Numbers = {"base_dim": 96, "z_dim": 16}
SMALL_QWEN_VAE: Numbers = {"base_dim": 4, "z_dim": 16, "num_res_blocks": 1, "sample_size": 64}
QWEN_SHIFT: Numbers = {
    **{**BY_TOKENS, "shift": 1.0, "base_image_seq_len": 256, "max_image_seq_len": 8192},
    **{"base_shift": 0.5, "max_shift": 0.9, "shift_terminal": 0.02},
}
CHROMA: Numbers = {
    **{"in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128},
    **{"num_attention_heads": 24, "joint_attention_dim": 4096},
}
TINY_CHROMA: Numbers = {
    **{"in_channels": 64, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16},
    **{"num_attention_heads": 2, "joint_attention_dim": 56, "axes_dims_rope": [4, 4, 8]},
    **{"approximator_num_channels": 8, "approximator_hidden_dim": 32, "approximator_layers": 1},
}
ZIMAGE: Numbers = {
    "in_channels": 16,
    "dim": 3840,
    "n_layers": 30,
    "n_heads": 30,
    "n_kv_heads": 30,
    "cap_feat_dim": 2560,
}
TINY_ZIMAGE: Numbers = {
    **{"in_channels": 16, "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2},
    **{"cap_feat_dim": 16, "axes_dims": [8, 4, 4], "axes_lens": [1024, 64, 64]},
}
SANA: Numbers = {
    **{"in_channels": 32, "out_channels": 32, "num_attention_heads": 70, "attention_head_dim": 32, "num_layers": 20},
    **{"num_cross_attention_heads": 20, "cross_attention_head_dim": 112, "cross_attention_dim": 2240},
    **{"caption_channels": 2304, "mlp_ratio": 2.5, "sample_size": 32, "patch_size": 1},
}
TINY_SANA: Numbers = {
    **{"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2},
    **{"num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16},
    **{"caption_channels": 16, "sample_size": 8, "patch_size": 1},
}
GEMMA2_2B: Numbers = {
    **{"vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26},
    **{"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256},
}
SMALL_GEMMA2: Numbers = {
    **{"vocab_size": 300, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8},
}
SANA_VAE: Numbers = {
    **{f"{side}_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3 for side in ("encoder", "decoder")},
    **{"upsample_block_type": "interpolate", "downsample_block_type": "Conv", "scaling_factor": 0.41407},
}
SMALL_SANA_VAE: Numbers = {
    **{f"{side}_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] for side in ("encoder", "decoder")},
    **{f"{side}_block_out_channels": [8, 8, 8, 8] for side in ("encoder", "decoder")},
    **{f"{side}_layers_per_block": [1, 1, 1, 1] for side in ("encoder", "decoder")},
    **{f"{side}_qkv_multiscales": [[], [], [], [5]] for side in ("encoder", "decoder")},
    **{"upsample_block_type": "interpolate", "downsample_block_type": "Conv", "scaling_factor": 0.41407},
    **{"latent_channels": 4, "attention_head_dim": 4},
}
DPM_FLOW: Numbers = {
    **{"_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 1000, "flow_shift": 3.0},
    **{"prediction_type": "flow_prediction", "use_flow_sigmas": True},
}
