"""Former names of options, which are answered with the present ones."""

from collections.abc import Mapping
from typing import Any

from quantbooth.schema import FIELDS

__all__ = ["RENAMED", "in_present_form"]

RENAMED: dict[str, str] = {
    "tuner.subject_batch": "tuner.train_batch_size",
    "tuner.decay": "tuner.lr_scheduler=cosine, or constant",
    "tuner.average": "tuner.ema_decay",
    "tuner.weight_bound": "tuner.loss_weight_max",
    "base.weight_bound": "base.loss_weight_max",
    "tuner.flip": "tuner.random_flip",
    "tuner.checkpointing": "resources.gradient_checkpointing",
    "tuner.cache": "resources.cache_latents",
    "tuner.saved_as": "resources.save_dtype",
    "tuner.sample_every": "preview.validation_steps",
    "tuner.tag": "tag",
    "tuner.together": "subjects=[a,b]",
    "prior.batch": "prior.class_batch_size",
    "prior.weight": "prior.loss_weight",
    "prior.count": "prior.num_class_images",
    "protocol.at_steps": "protocol.eval_steps",
    "protocol.every": "protocol.prompt_stride",
    "protocol.drift": "protocol.prior_prompts",
    "scorer.background": "scorer.mask_background, which is true where that was false",
    "quant.activations": "quant.act_bits",
    "quant.softmax": "quant.softmax_bits",
    "quant.split": "quant.split_skips",
    "damage.beside": "degradation.compare_with",
    **{f"damage.{key}": f"degradation.{key}" for key in FIELDS["degradation"]},
    "logger.folder": "logger.csv.folder, of each tracker",
    "logger.project": "logger.wandb.project, or logger.mlflow.project",
    "calibration.search.norm": "calibration.search.lp_norm",
    "calibration.activations.norm": "calibration.activations.lp_norm",
    "optimizer._target_": "optimizer.name=adamw, or another of torch.optim",
}
"""Former name -> current name of renamed options."""


def in_present_form(settings: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return settings in which the only tracker, which earlier versions stored without a name, has the name `only`."""
    tracker = settings.get("logger")
    if not isinstance(tracker, Mapping) or "_target_" not in tracker:
        return settings
    return {**settings, "logger": {"only": tracker}}
