"""Every argument of Lightning's Trainer: the values that are honoured, and why another argument is not."""

from quantbooth.kinds import (
    FLAG,
    MAPPING,
    TEXT,
    Field,
    Kind,
    checked,
    either,
    ignored,
    left_out,
    list_of,
    number,
    one_of,
    optional,
    whole,
)

__all__ = ["CALLBACK_GROUPS", "TRAINER"]

ONE_INDEX = Kind("[i], the index of one GPU", lambda value: list_of(whole(0), 1, 1).holds(value))

TRAINER: dict[str, Field] = {
    "accelerator": ignored(TEXT),
    "devices": ignored(either(whole(1), ONE_INDEX)),
    "precision": Field(one_of("32-true", "bf16-mixed", "16-mixed"), neutral="32-true"),
    "accumulate_grad_batches": Field(whole(1), neutral=1),
    "gradient_clip_val": Field(optional(number()), neutral=None),
    "gradient_clip_algorithm": Field(one_of("norm", "value", None), neutral=None),
    "deterministic": Field(either(FLAG, one_of("warn", None)), neutral=None),
    "enable_model_summary": ignored(FLAG),
    "enable_progress_bar": ignored(FLAG),
    "log_every_n_steps": ignored(whole(0)),
    "detect_anomaly": ignored(FLAG),
    "max_epochs": ignored(Kind("-1 (tuner.steps ends a run)", lambda value: type(value) is int and value == -1)),
    "enable_checkpointing": ignored(Kind("false (see resources.checkpoint_every)", lambda value: value is False)),
    **left_out("tuner.steps ends a run", "max_steps", "min_steps", "min_epochs", "max_time", "overfit_batches"),
    **left_out("every loop takes all of its batches", "fast_dev_run", "limit_train_batches"),
    **left_out("every loop takes all of its batches", "limit_test_batches", "limit_predict_batches"),
    **left_out("tuning has no validation loop", "limit_val_batches", "val_check_interval"),
    **left_out("tuning has no validation loop", "check_val_every_n_epoch", "num_sanity_val_steps"),
    **left_out("trainer.devices decides it", "strategy", "num_nodes", "sync_batchnorm", "use_distributed_sampler"),
    **left_out("choose logger=csv, tensorboard, wandb or mlflow", "logger"),
    **left_out("choose callbacks=device_stats or learning_rate", "callbacks"),
    **left_out("quantbooth adds its own", "plugins"),
    **left_out("its report is not written", "profiler"),
    **left_out("it removes curves and progress bars", "barebones"),
    **left_out("it chooses kernels by their speed, so a seed does not repeat its artifact", "benchmark"),
    **left_out("it has no effect here", "default_root_dir", "reload_dataloaders_every_n_epochs", "model_registry"),
    **left_out("it has no effect here", "enable_autolog_hparams", "inference_mode"),
}

CALLBACK_GROUPS: dict[str, dict[str, Field]] = {
    "callbacks": checked(**{"*": MAPPING}),
    "callbacks.*": checked(
        cpu_stats=optional(FLAG), logging_interval=optional(one_of("step", "epoch")), log_momentum=FLAG
    ),
}
"""The options of Lightning's callbacks that the package's configs name."""
