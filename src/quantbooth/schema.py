"""The schema of options: the values allowed for each, and which decide the content of an artifact.

    identity(artifact) = { field: value | field decides the content, value is not neutral } + parents' identities

Commands refuse an option that is not declared here, and a value that is none of its kind, before any work
(`runtime.options`). Fields decide in the groups of `DECIDING`; strategies, subjects, protocols, scorers and locators
by what their objects compute (`describe`, `fingerprint`), bases by their files. Keys that begin with an underscore
(`_target_`) are code paths and never decide; the `name` of a class, one of its fields, identifies what it computes.
"""

from collections.abc import Mapping
from typing import Any

from quantbooth.kinds import (
    FLAG,
    INTERVAL,
    MAPPING,
    PATH,
    SEED,
    TEXT,
    TEXTS,
    Field,
    checked,
    either,
    ignored,
    list_of,
    number,
    one_of,
    optional,
    whole,
)
from quantbooth.schema_trainer import CALLBACK_GROUPS, TRAINER
from quantbooth.schema_tuner import TUNER_GROUPS, WEIGHT

__all__ = ["COMMANDS", "FIELDS", "OBJECTIVES", "OPEN", "TRAINING_ONLY", "content", "trainer_content"]

ANY = "*"
"""A key that stands for all others of its group."""
BITS = one_of(2, 3, 4, 8, None)
ACTIVATION_BITS = optional(whole(2, 16))
SHARE = number(below=1, positive=True)
STRENGTH = number(below=1000)
REAL = number(-1000, below=1000)
FIT = one_of("crop", "pad", "squash")
DTYPE = one_of("float32", "float16")
SOURCE = checked(path=TEXT, revision=optional(TEXT), config=optional(PATH), converted=PATH, option=TEXT)
OBJECTIVES = (
    *("clip_t", "local_clip_i", "clip_i", "dino", "local_dino", "oracle_subject", "oracle_prompt", "diversity"),
    *("prior_kept", "subject_found"),
)
"""The scores of a report, which a search may maximize."""
GROUPS = (
    *("base", "quant", "calibration", "tuner", "strategy", "timesteps", "subject", "prior", "optimizer", "sampler"),
    *("locator", "callbacks"),
    *("scorer", "trainer", "logger", "paths", "protocol", "resources", "preview", "report", "export", "probe"),
    *("degradation", "method_style"),
)

FIELDS: dict[str, dict[str, Field]] = {
    "": {
        **checked(seed=SEED, tag=optional(either(TEXT, number())), pictures=PATH, lora=TEXTS),
        **checked(strength=either(STRENGTH, MAPPING), negative_prompt=optional(TEXT), scale_sets=optional(PATH)),
        **dict.fromkeys(("unconditional_strength", "reward_guidance"), Field(optional(STRENGTH))),
        **checked(prompt=optional(either(TEXT, list_of(TEXT, 1)))),
        **checked(subjects=optional(list_of(TEXT, 1, distinct=True)), dino=optional(MAPPING)),
        **dict.fromkeys(("dry_run", "fail_fast"), ignored(FLAG)),
        "objectives": ignored(list_of(one_of(*OBJECTIVES), distinct=True)),
        **{group: Field(MAPPING) for group in GROUPS},
    },
    "strength": checked(**{ANY: STRENGTH}),
    "base": {
        **checked(name=TEXT, path=PATH, revision=optional(TEXT), config=optional(PATH), licence=optional(TEXT)),
        **checked(timesteps=whole(1), resolution=whole(1), identifier=TEXT),
        **checked(loss_weight_max=optional(number(1)), zones=MAPPING),
        **checked(folder=MAPPING, held_out=MAPPING, contrasts=MAPPING, class_prompts=MAPPING),
        "gradient_checkpointing": ignored(FLAG),
    },
    **{"base.folder": SOURCE, "base.held_out": {}, "base.contrasts": {}},
    "base.zones": checked(**{ANY: INTERVAL}),
    "base.class_prompts": checked(count=whole(1)),
    "quant": {
        "name": ignored(TEXT),
        "bits": Field(BITS),
        "stored": Field(FLAG, neutral=False),
        "symmetric": Field(FLAG),
        "include": Field(TEXTS),
        "exclude": Field(optional(TEXTS)),
        "split_skips": Field(FLAG, neutral=False),
        "group_size": Field(optional(whole(8)), neutral=None),
        **dict.fromkeys(("act_bits", "softmax_bits"), Field(ACTIVATION_BITS, neutral=None)),
    },
    "calibration": {
        "name": ignored(TEXT),
        "search": Field(MAPPING),  # its grid repeats quant.bits and quant.symmetric
        "rounding": Field(optional(MAPPING), neutral=None),
        "activations": Field(MAPPING),
        "set": ignored(MAPPING),  # the calibration set is a parent with its own identity
    },
    "calibration.search": checked(grid=MAPPING, lp_norm=number(positive=True), points=whole(1, 100)),
    "calibration.search.grid": checked(bits=BITS, symmetric=FLAG),
    "calibration.rounding": {
        **checked(iterations=whole(1), batch=whole(1), learning_rate=number(), penalty=number(), seed=SEED),
        **checked(warm_up=number(below=1), beta=list_of(number(), 2, 2)),
    },
    "calibration.activations": {
        **checked(iterations=whole(0), batch=whole(1), learning_rate=number(), momentum=number(below=1), seed=SEED),
        **checked(lp_norm=number(positive=True)),
    },
    "calibration.set": {
        "source": Field(one_of("sampler", "normal", "forward")),
        "timesteps": Field(whole(1)),
        "batch": Field(whole(1)),
        "prompts": ignored(optional(either(TEXT, list_of(TEXT, 1)))),  # the sentences decide, by their fingerprint
        "count": ignored(whole(1)),
        "seed": ignored(SEED),
    },
    **TUNER_GROUPS,
    "strategy": {
        **checked(timesteps=whole(1), apart=FLAG, zones=MAPPING, count=whole(1), least=number(below=1)),
        **checked(interval=either(INTERVAL, list_of(INTERVAL, 1))),
        **checked(shared_steps=optional(whole(0)), steps=whole(1), wide=optional(INTERVAL)),
        **checked(bins=whole(1), draws=whole(1, 1000), outside=one_of("base", "tuned")),
    },
    "timesteps": {  # decide by what their objects compute (`describe`)
        **checked(name=TEXT, loc=REAL, scale=number(positive=True), mean=REAL, std=optional(number(positive=True))),
        **checked(path=PATH, within=one_of("reject", "rescale"), folder=MAPPING, steps=whole(1)),
        **checked(shift=optional(number(below=1000, positive=True))),
    },
    "timesteps.folder": SOURCE,
    "strategy.zones": checked(folder=MAPPING, **{ANY: either(INTERVAL, number(positive=True))}),
    "subject": {
        **checked(name=optional(TEXT), path=PATH, class_word=TEXT, live=FLAG, fit=FIT, pictures=MAPPING),
        **checked(templates=optional(list_of(TEXT, 1, distinct=True))),
    },
    "subject.pictures": {
        **checked(name=optional(TEXT), path=PATH, class_word=TEXT, live=FLAG, fit=FIT, identifier=TEXT),
        **checked(resolution=whole(1), templates=optional(list_of(TEXT, 1, distinct=True))),
    },
    "resources": {
        "gradient_checkpointing": ignored(FLAG),
        "cache_latents": ignored(FLAG),
        **dict.fromkeys(("cuda_graphs", "group_offload"), ignored(FLAG)),
        "kernels": ignored(one_of("auto", "eager", "fused")),
        "checkpoint_every": ignored(whole(0)),
        "memory_gb": ignored(optional(number(positive=True))),
        "save_dtype": Field(DTYPE),
    },
    "preview": {"validation_steps": ignored(whole(0))},
    "optimizer": checked(name=TEXT, lr=number(), weight_decay=number()),
    "prior": {
        **checked(num_class_images=whole(0), seed=SEED, class_batch_size=whole(0), loss_weight=WEIGHT),
        "target": Field(one_of("noise", "base"), neutral="noise"),
        "class_prompts": ignored(optional(either(list_of(TEXT, 1), MAPPING))),  # the prompts decide
    },
    "prior.class_prompts": checked(count=whole(1)),
    "sampler": checked(scheduler=TEXT, steps=whole(1), guidance=number()),
    "protocol": {
        **checked(name=TEXT, seeds=list_of(SEED, 1, distinct=True), eval_steps=list_of(whole(1))),
        **checked(prompt_stride=whole(1), prior_prompts=whole(0), batch=either(whole(1), one_of("auto"))),
    },
    "locator": {
        **checked(threshold=SHARE, least=SHARE, contrast=number(below=1000, positive=True), folder=MAPPING),
        **checked(timesteps=list_of(whole(0), 1)),
    },
    "locator.folder": SOURCE,
    **{"dino": checked(folder=MAPPING), "dino.folder": SOURCE},
    "scorer": checked(
        locator=MAPPING, dino=optional(MAPPING), encoder=MAPPING, oracle=optional(MAPPING), mask_background=FLAG
    ),
    "scorer.encoder": checked(model=TEXT, pretrained=TEXT, folder=MAPPING),
    "scorer.encoder.folder": {},
    **{"scorer.oracle": checked(folder=MAPPING), "scorer.oracle.folder": {}},
    **CALLBACK_GROUPS,
    "logger": checked(**{ANY: MAPPING}),
    f"logger.{ANY}": checked(folder=PATH, project=TEXT, artifacts=one_of("references", "files", "none")),
    "paths": checked(outputs=PATH, store=PATH, logs=PATH, dreambooth=PATH),
    "report": checked(scores=TEXTS, folder=optional(PATH), compare_with=TEXTS, notes=TEXTS),
    "export": {
        **checked(
            format=one_of("diffusers", "safetensors", "lora", "quantized"),
            folder=PATH,
            step=optional(whole(0)),
            merged=FLAG,
        ),
        **checked(precision=one_of("float32", "float16", "bfloat16")),
    },
    "method_style": checked(label=TEXT, colour=MAPPING, marker=TEXT, order=number()),
    "method_style.colour": checked(light=TEXT, dark=TEXT),
    "probe": {
        **checked(pairs=whole(2), every=whole(1), questions=whole(1), grid=whole(2), seed=SEED),
        "prompts": Field(optional(list_of(list_of(TEXT, 2, 2), 1))),
        "batch": ignored(whole(1)),
        "round": ignored(whole(1)),
        "folder": ignored(PATH),
        "document": ignored(PATH),
    },
    "degradation": {
        **checked(predictions=whole(2), pictures=whole(2), seed=SEED),
        "prompts": ignored(optional(list_of(TEXT, 1))),  # the questions decide, by their fingerprint
        "batch": ignored(whole(1)),
        "shown": ignored(whole(1)),
        "compare_with": ignored(TEXTS),
        "folder": ignored(PATH),
        "document": ignored(PATH),
        "notes": ignored(TEXTS),
    },
    "trainer": TRAINER,
}
"""The fields of each config group."""

PRETRAINING = ("32-true", "bf16-mixed")
RECIPE = checked(steps=whole(1), batch=whole(1), learning_rate=number(), warmup=whole(0), hold=number(below=1))
COMMANDS: dict[str, dict[str, dict[str, Field]]] = {
    "data": {
        "": checked(action=optional(TEXT), folder=PATH, source=MAPPING, paths=MAPPING),
        "source": checked(version=TEXT, listing=TEXT, files=TEXT),
        "paths": FIELDS["paths"],
    },
    "pretrain": {
        "": {
            **checked(parts=list_of(one_of("judges", "base", "card")), seed=SEED, scenes=whole(1), work=PATH),
            **checked(assets=PATH, validation_steps=whole(0), start=optional(PATH), judges=MAPPING),
            **checked(begin_with=optional(TEXT)),
            **checked(model=one_of("toy", "toy_flow"), models=MAPPING, paths=MAPPING),
        },
        "judges": checked(scorer=SEED, locator=SEED, oracle=SEED),
        "models": checked(**{ANY: MAPPING}),
        f"models.{ANY}": {
            **checked(parts=list_of(one_of("judges", "base", "card")), assets=PATH),
            **checked(sampler=MAPPING, decoder=MAPPING, rounds=MAPPING, card=MAPPING),
        },
        f"models.{ANY}.sampler": FIELDS["sampler"],
        f"models.{ANY}.decoder": RECIPE,
        f"models.{ANY}.rounds": checked(**{ANY: MAPPING}),
        f"models.{ANY}.rounds.{ANY}": {**RECIPE, **checked(precision=one_of(*PRETRAINING), weighting=MAPPING)},
        f"models.{ANY}.rounds.{ANY}.weighting": checked(
            focus=number(), decisive=INTERVAL, loss_weight_max=number(positive=True)
        ),
        f"models.{ANY}.card": checked(pictures=whole(1), seed=SEED, notes=TEXTS),
        "paths": FIELDS["paths"],
    },
}
"""The fields of configurations that are not conf/quantbooth.yaml, by their names."""

OPEN = ("optimizer",)
"""Groups whose other keys are arguments of a library's class, which checks them."""

DECIDING = (
    *("quant", "calibration", "calibration.set", "tuner", "optimizer", "prior", "resources", "sampler", "trainer"),
    *("probe", "degradation"),
)
"""Groups whose fields enter identities; the fields of the others are only checked."""

IDENTITY_KEYS = {"lp_norm": "norm"}
"""Option -> the key of its value in identities, so that renaming the option renames no artifact."""

TRAINING_ONLY = {"gradient_clip_val": None, "gradient_clip_algorithm": None, "accumulate_grad_batches": 1}
"""Trainer options of tuning, with the values that all other work has."""


def content(settings: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return the fields of a group that decide content, without code paths.

    Args:
        settings: the resolved configuration.
        group: dotted, such as "calibration.set".

    Raises:
        KeyError: for a group that is not in DECIDING.
    """
    if group not in DECIDING:
        raise KeyError(f"the fields of {group} decide no content")
    node: Any = settings
    for key in group.split("."):
        node = node[key]
    values: dict[str, Any] = _without_addresses(_deciding(node, group))
    return values


def _deciding(node: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return what enters an identity of a group and of the declared groups in it."""
    fields = FIELDS.get(group, {})
    return {
        key: _deciding(value, f"{group}.{key}") if isinstance(value, Mapping) else value
        for key, value in node.items()
        if key not in fields or fields[key].enters(value)
    }


def trainer_content(settings: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
    """Return the trainer options that decide content, of a trained artifact or one that is only computed."""
    found = content(settings, "trainer")
    chosen = {key: value for key, value in found.items() if training or key not in TRAINING_ONLY}
    return {"trainer": chosen} if chosen else {}


def _without_addresses(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {IDENTITY_KEYS.get(k, k): _without_addresses(v) for k, v in node.items() if not str(k).startswith("_")}
    return [_without_addresses(value) for value in node] if isinstance(node, list | tuple) else node
