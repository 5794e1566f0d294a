"""The options of tuners: the values allowed for each, and which decide what is learned."""

from quantbooth.kinds import (
    FLAG,
    MAPPING,
    MOST,
    SEED,
    TEXT,
    TEXTS,
    Field,
    checked,
    ignored,
    number,
    one_of,
    optional,
    whole,
)

__all__ = ["LEARNER", "OFF", "TUNER_GROUPS", "UNUSED_RATES", "WEIGHT"]

WEIGHT = number(below=MOST)
"""Of a part of the loss; one beyond float32 would make it nan."""
OFF = {"every": None, "window": 5, "variance": 0.05, "prompt_drop": None, "prompts": 16, "sampler_steps": 10}
"""The values of `tuner.stopping` without stopping."""
UNUSED_RATES = {"shift_learning_rate": (0.01, 0.005), "identifier_learning_rate": (0.02,)}
"""The values of conf/tuner, with which learning rates may be of parameters that do not learn."""
GROUP_SIZE = Field(optional(whole(1)), neutral=None)

TUNER: dict[str, Field] = {
    "name": ignored(TEXT),
    "learner": Field(MAPPING),
    "rank": Field(whole(1)),
    "alpha": Field(optional(number(positive=True))),
    "include": Field(TEXTS),
    "exclude": Field(TEXTS),
    "biases": Field(FLAG),
    "norms": Field(FLAG),
    "group_size": GROUP_SIZE,
    "identifier": Field(FLAG),
    "steps": Field(whole(1)),
    "train_batch_size": Field(whole(1)),
    "learning_rate": Field(number()),
    "shift_learning_rate": Field(number()),
    "adapter_learning_rate": Field(number()),
    "identifier_learning_rate": Field(number()),
    "lr_scheduler": Field(one_of("constant", "cosine", "cosine_with_restarts", "linear", "polynomial")),
    "lr_warmup_steps": Field(whole(0), neutral=0),
    "lr_num_cycles": Field(whole(1), neutral=1),
    "lr_power": Field(number(below=1000, positive=True), neutral=1.0),
    "ema_decay": Field(optional(number(below=1)), neutral=None),
    "loss_weight_max": Field(optional(number(1))),
    "random_flip": Field(FLAG, neutral=False),
    "pull": Field(WEIGHT, neutral=0.0),
    "dco_beta": Field(optional(number(below=MOST, positive=True)), neutral=None),
    "stopping": Field(MAPPING, neutral=OFF),
}
STOPPING: dict[str, Field] = {
    **checked(every=optional(whole(1)), window=whole(2), variance=number(below=1)),
    **checked(prompt_drop=optional(number(below=2)), prompts=whole(1), sampler_steps=whole(1)),
}
LEARNER: dict[str, Field] = {
    **checked(inputs=FLAG, biases=FLAG, norms=FLAG, rank=whole(1), alpha=optional(number(positive=True))),
    **checked(include=TEXTS, exclude=TEXTS, quantized=FLAG, seed=SEED),
    "group_size": GROUP_SIZE,
}
TUNER_GROUPS = {"tuner": TUNER, "tuner.learner": LEARNER, "tuner.stopping": STOPPING}
"""The fields of each group of a tuner's options."""
