"""PyTorch optimizers by name: `optimizer.name=adamw`; the other keys of the group are its arguments."""

from collections.abc import Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from quantbooth.runtime.errors import UserError
from quantbooth.tuning.recipe import OptimizerFactory

__all__ = ["OPTIMIZERS", "optimizer_factory"]

UNFIT = (Optimizer, torch.optim.LBFGS, torch.optim.SparseAdam, torch.optim.Muon)
"""The base class, and those for one group of parameters, for sparse gradients and for matrices alone."""
OPTIMIZERS: dict[str, Any] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and kind not in UNFIT
}


def optimizer_factory(options: Mapping[str, Any]) -> OptimizerFactory:
    """Return a function that makes the optimizer, after a step with one parameter.

    Args:
        options: `name` and the arguments of the optimizer.

    Raises:
        UserError: for a name that is not among OPTIMIZERS, or arguments that the optimizer refuses.
    """
    given = dict(options)
    name = given.pop("name", None)
    if name not in OPTIMIZERS:
        raise UserError(f"optimizer.name must be one of {', '.join(sorted(OPTIMIZERS))}, got {name!r}")
    factory = partial(_made, OPTIMIZERS[name], given)
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    try:
        factory([{"params": [parameter]}]).step(lambda: 0.0)
    except (TypeError, ValueError, LookupError, RuntimeError, AssertionError) as error:
        raise UserError(f"optimizer.name={name} refuses its options: {' '.join(str(error).split())}") from error
    return factory


def _made(kind: Any, options: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> Optimizer:
    """Make the optimizer; hundreds of small parameters on a GPU take one kernel where it has a fused form.

    That could divide by the scale of float16's loss itself. It would do so after gradients are clipped, and call what
    follows a step (the EMA) in steps that are left out.
    """
    on_card = all(one.is_cuda for group in groups for one in group["params"])
    fused = {"fused": True} if on_card and "fused" in signature(kind).parameters and "foreach" not in options else {}
    made: Any = kind(groups, **(fused | dict(options)))
    made._step_supports_amp_scaling = False
    optimizer: Optimizer = made
    return optimizer
