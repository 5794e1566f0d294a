"""The configuration of a LoRA as PEFT writes it, in adapter_config.json or, through diffusers, in the file's header.

Keys that decide what is computed have one type, or the one value that is supported; those of training are only known.
"""

from typing import Any, Literal

from typing_extensions import TypedDict  # typing's has no keys that pydantic can read before Python 3.12

__all__ = ["LoraConfig"]

OFF = (
    *("use_dora", "use_bdlora", "use_qalora", "lora_bias", "layer_replication", "alora_invocation_tokens"),
    *("arrow_config", "kasa_config", "monteclora_config", "velora_config"),
)
"""Kinds of LoRA whose layers compute something else than y + s B A x."""
OF_TRAINING = (
    *("task_type", "auto_mapping", "base_model_name_or_path", "parent_library", "revision", "inference_mode"),
    *("target_modules", "exclude_modules", "target_parameters", "modules_to_save", "layers_to_transform"),
    *(
        "layers_pattern",
        "rank_pattern",
        "lora_dropout",
        "bias",
        "fan_in_fan_out",
        "init_lora_weights",
        "runtime_config",
    ),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_config", "megatron_core"),
    *("qalora_group_size", "trainable_token_indices", "ensure_weight_tying", "peft_version"),
)
"""Keys whose effect is in the tensors: which layers, their ranks, how they began."""
KEYS: dict[str, Any] = {
    **{"peft_type": Literal["LORA"], "r": int, "lora_alpha": float, "use_rslora": bool},
    "alpha_pattern": dict[str, float] | None,
    **dict.fromkeys(OFF, Literal[False] | None),
    **dict.fromkeys(OF_TRAINING, Any),
}

LoraConfig: Any = TypedDict("LoraConfig", KEYS, total=False)  # type: ignore[misc]
