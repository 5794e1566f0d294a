"""The schema of options: which of them decide the content of an artifact, and their former names.

    identity(artifact) = { field: value | field decides the content, value is not neutral } + parents' identities

A field that is not declared here decides, so an unknown option makes another artifact and never finds a wrong one. Keys
that begin with an underscore (`_target_`, `_partial_`) are code paths. They never decide, so moving code renames no
artifact; the `name` of a class, which is one of its fields, identifies what it computes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FIELDS", "OPEN", "RENAMED", "TRAINING_ONLY", "Field", "content", "trainer_content"]

_ALWAYS = object()


@dataclass(frozen=True)
class Field:
    """How one option enters an identity.

    Attributes:
        decides: whether it decides the content; names, resources and previews do not.
        neutral: a value without effect that is left out of identities, so that adding the option renames no artifact.
    """

    decides: bool = True
    neutral: Any = _ALWAYS

    def enters(self, value: object) -> bool:
        """Return whether this value is part of an identity."""
        return self.decides and not (type(value) is type(self.neutral) and value == self.neutral)


DECIDES = Field()
IGNORED = Field(decides=False)


def unless(neutral: object) -> Field:
    """Return a field that decides unless it has this value."""
    return Field(neutral=neutral)


FIELDS: dict[str, dict[str, Field]] = {
    "quant": {
        "name": IGNORED,
        "bits": DECIDES,
        "symmetric": DECIDES,
        "include": DECIDES,
        "exclude": DECIDES,
        "split_skips": unless(False),
        "act_bits": unless(None),
        "softmax_bits": unless(None),
    },
    "calibration": {
        "name": IGNORED,
        "search": DECIDES,  # its grid repeats quant.bits and quant.symmetric
        "rounding": unless(None),
        "activations": DECIDES,
        "set": IGNORED,  # the calibration set is a parent with its own identity
    },
    "calibration.set": {
        "source": DECIDES,
        "timesteps": DECIDES,
        "batch": DECIDES,
        "prompts": IGNORED,  # the sentences themselves decide, by their fingerprint
        "count": IGNORED,
        "seed": IGNORED,
    },
    "tuner": {
        "name": IGNORED,
        "learner": DECIDES,
        "rank": DECIDES,
        "alpha": DECIDES,
        "include": DECIDES,
        "exclude": DECIDES,
        "biases": DECIDES,
        "norms": DECIDES,
        "identifier": DECIDES,
        "steps": DECIDES,
        "train_batch_size": DECIDES,
        "learning_rate": DECIDES,
        "shift_learning_rate": DECIDES,
        "identifier_learning_rate": DECIDES,
        "lr_scheduler": DECIDES,
        "ema_decay": unless(None),
        "loss_weight_max": DECIDES,
        "random_flip": unless(False),
    },
    "resources": {
        "gradient_checkpointing": IGNORED,
        "cache_latents": IGNORED,
        "checkpoint_every": IGNORED,
        "save_dtype": DECIDES,
    },
    "preview": {"validation_steps": IGNORED},
    "optimizer": {"name": DECIDES, "lr": DECIDES, "weight_decay": DECIDES},
    "prior": {"num_class_images": DECIDES, "seed": DECIDES, "class_batch_size": DECIDES, "loss_weight": DECIDES},
    "sampler": {"scheduler": DECIDES, "steps": DECIDES, "guidance": DECIDES},
    "probe": {
        "pairs": DECIDES,
        "every": DECIDES,
        "questions": DECIDES,
        "grid": DECIDES,
        "prompts": DECIDES,
        "seed": DECIDES,
        "batch": IGNORED,
        "round": IGNORED,
        "folder": IGNORED,
        "document": IGNORED,
    },
    "degradation": {
        "predictions": DECIDES,
        "pictures": DECIDES,
        "prompts": IGNORED,  # the questions decide, by their fingerprint
        "seed": DECIDES,
        "batch": IGNORED,
        "shown": IGNORED,
        "compare_with": IGNORED,
        "folder": IGNORED,
        "document": IGNORED,
        "notes": IGNORED,
    },
    "trainer": {
        "accelerator": IGNORED,
        "devices": IGNORED,
        "precision": unless("32-true"),
        "max_epochs": unless(-1),
        "enable_checkpointing": IGNORED,
        "enable_model_summary": IGNORED,
        "enable_progress_bar": IGNORED,
        "log_every_n_steps": IGNORED,
        "default_root_dir": IGNORED,
        "detect_anomaly": IGNORED,
        "profiler": IGNORED,
    },
}
"""The fields of each config group."""

OPEN = ("trainer", "optimizer", "calibration")
"""Groups whose other keys are arguments of a library's class, or of a class that validates them itself."""

RENAMED: dict[str, str] = {
    "tuner.subject_batch": "tuner.train_batch_size",
    "tuner.decay": "tuner.lr_scheduler=cosine, or constant",
    "tuner.average": "tuner.ema_decay",
    "tuner.weight_bound": "tuner.loss_weight_max",
    "base.weight_bound": "base.loss_weight_max",
    "base.unet_bits": "base.stored_bits",
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
    "damage.predictions": "degradation.predictions",
    "damage.pictures": "degradation.pictures",
    "damage.prompts": "degradation.prompts",
    "damage.seed": "degradation.seed",
    "damage.batch": "degradation.batch",
    "damage.shown": "degradation.shown",
    "damage.compare_with": "degradation.compare_with",
    "damage.folder": "degradation.folder",
    "damage.document": "degradation.document",
    "damage.notes": "degradation.notes",
    "calibration.search.norm": "calibration.search.lp_norm",
    "calibration.activations.norm": "calibration.activations.lp_norm",
    "optimizer._target_": "optimizer.name=adamw, or another of torch.optim",
}
"""Former name -> current name of renamed options."""

IDENTITY_KEYS = {"lp_norm": "norm"}
"""Option -> the key of its value in identities, so that renaming the option renames no artifact."""

TRAINING_ONLY = ("gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches", "max_epochs")
"""Trainer options that affect training, but not sampling or measurement."""


def content(settings: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return the fields of a group that decide content, without code paths.

    Args:
        settings: the resolved configuration.
        group: dotted, such as "calibration.set".
    """
    node: Any = settings
    for key in group.split("."):
        node = node[key]
    fields = FIELDS[group]
    found = {key: value for key, value in node.items() if fields.get(key, DECIDES).enters(value)}
    values: dict[str, Any] = _without_addresses(found)
    return values


def trainer_content(settings: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
    """Return the trainer options that decide content, of a trained artifact or one that is only computed."""
    found = content(settings, "trainer")
    chosen = {key: value for key, value in found.items() if training or key not in TRAINING_ONLY}
    return {"trainer": chosen} if chosen else {}


def _without_addresses(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {IDENTITY_KEYS.get(k, k): _without_addresses(v) for k, v in node.items() if not str(k).startswith("_")}
    return [_without_addresses(value) for value in node] if isinstance(node, list | tuple) else node
