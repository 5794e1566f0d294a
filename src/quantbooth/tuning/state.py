"""The state of a training run as tensors and JSON: parameters, EMA, optimizer, rate, loss scale, counts, callbacks."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Shaped
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from quantbooth.runtime.errors import UserError
from quantbooth.tuning.checkpoints import Checkpoint
from quantbooth.tuning.module import TuningModule

__all__ = ["callbacks_state", "pack", "read_state", "restore_", "unpack"]

Tensors = dict[str, Shaped[Tensor, "..."]]


def read_state(trainer: Trainer, module: TuningModule) -> tuple[Tensors, dict[str, Any]]:
    """Return all that decides the later steps: tensors by name, and numbers as JSON-compatible data.

    Raises:
        UserError: when a callback's state is more than tensors, numbers and strings.
    """
    tensors = _learned(module)
    numbers = {
        "optimizers": pack([one.state_dict() for one in trainer.optimizers], "optimizers", tensors),
        "schedulers": [_numbers_of(config.scheduler) for config in trainer.lr_scheduler_configs],
        "seen": module.seen.tolist(),
        "precision": pack(trainer.precision_plugin.state_dict(), "precision", tensors),
        "callbacks": callbacks_state(trainer, tensors),
    }
    return tensors, numbers


def restore_(found: Checkpoint, trainer: Trainer, module: TuningModule) -> None:
    """Set a new run to the state of a checkpoint, before its first step.

    Raises:
        UserError: when the checkpoint is of other parameters.
    """
    learned = _learned(module)
    if misfit := found.misfit(learned):
        raise misfit
    with torch.no_grad():
        for name, tensor in learned.items():
            tensor.copy_(found.tensors[name])
    states = unpack(found.numbers["optimizers"], found.tensors)
    for optimizer, state in zip(trainer.optimizers, states, strict=True):
        optimizer.load_state_dict(state)
    for config, state in zip(trainer.lr_scheduler_configs, found.numbers["schedulers"], strict=True):
        config.scheduler.load_state_dict({**state, "lr_lambdas": [None] * len(state["base_lrs"])})
    module.seen.copy_(torch.tensor(found.numbers["seen"]))
    trainer.precision_plugin.load_state_dict(unpack(found.numbers["precision"], found.tensors))
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for one in callbacks:
        if one.state_key in found.numbers["callbacks"]:
            one.load_state_dict(unpack(found.numbers["callbacks"][one.state_key], found.tensors))
    loop = trainer.fit_loop.epoch_loop
    done = loop.automatic_optimization.optim_progress.optimizer.step.total
    done.ready = done.completed = found.step
    loop.on_load_checkpoint({"_batches_that_stepped": found.step})  # the step of the curves


def callbacks_state(trainer: Trainer, tensors: Tensors) -> dict[str, Any]:
    """Return the state of each callback that has one, by its key; tensors are added to `tensors`.

    Raises:
        UserError: when it is more than tensors, numbers and strings, or part of a checkpoint of Lightning.
    """
    found = {}
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for one in callbacks:
        for name in ("on_save_checkpoint", "on_load_checkpoint"):
            if is_overridden(name, instance=one, parent=Callback):
                raise UserError(
                    f"callbacks.{type(one).__qualname__}.{name} is never called: checkpoints are not Lightning's; "
                    "keep its state in state_dict and load_state_dict, or leave it out"
                )
        if state := one.state_dict():
            try:
                found[one.state_key] = pack(state, f"callbacks.{one.state_key}", tensors)
            except TypeError as error:
                raise UserError(
                    f"a callback's state cannot be in a checkpoint: {error}; change its state_dict, or leave it out"
                ) from error
    return found


def pack(node: Any, name: str, tensors: Tensors) -> Any:
    """Return JSON-compatible data of a state; its tensors are added to `tensors` under names that begin with `name`.

    Raises:
        TypeError: for anything else than mappings, sequences, tensors, numbers, strings and None.
    """
    if isinstance(node, Tensor):
        while name in tensors:  # {"a": {"b": x}, "a.b": y}
            name += "'"
        tensors[name] = node.clone()  # parts of one storage are no tensors of a file
        return {"tensor": name}
    if isinstance(node, float) and not math.isfinite(node):
        return {"float": str(node)}  # which JSON does not have
    if isinstance(node, Mapping):
        if wrong := [key for key in node if not isinstance(key, bool | int | float | str | None)]:
            raise TypeError(f"a key of {name} must be a number or a string, got {type(wrong[0]).__name__}")
        return {"items": [[key, pack(value, f"{name}.{key}", tensors)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        kind = "list" if isinstance(node, list) else "tuple"
        return {kind: [pack(value, f"{name}.{place}", tensors) for place, value in enumerate(node)]}
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"{name} must be a tensor, a number or a string, got {type(node).__name__}")


def unpack(node: Any, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> Any:
    """Return the state of `pack`."""
    if not isinstance(node, Mapping):
        return node
    ((kind, value),) = node.items()
    match kind:
        case "tensor":
            return tensors[value]
        case "float":
            return float(value)
        case "items":
            return {key: unpack(each, tensors) for key, each in value}
        case "list":
            return [unpack(each, tensors) for each in value]
        case "tuple":
            return tuple(unpack(each, tensors) for each in value)
    raise ValueError(f"a state has no {kind!r}")


def _learned(module: TuningModule) -> Tensors:
    """Return the trainable parameters and their EMA themselves, by name."""
    learning = {id(one) for one in module.numbers}
    learned = {f"parameters.{name}": one.data for name, one in module.named_parameters() if id(one) in learning}
    if len(learned) != len(learning):
        raise TypeError("every trainable parameter must be part of the module")
    average = {} if module.average is None else module.average.tensors
    return learned | {f"average.{name}": tensor for name, tensor in average.items()}


def _numbers_of(scheduler: Any) -> dict[str, Any]:
    """Return the numbers of a learning-rate scheduler; its functions are part of the settings."""
    return {key: value for key, value in scheduler.state_dict().items() if key != "lr_lambdas"}
