"""The router: before each call of the unet it sends every sample to the scale set that serves its timestep."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quantbooth.quant.selection import Selection

__all__ = ["Route", "route_unet_"]

Route = Callable[[Tensor], Tensor]
"""Training timesteps, one per sample -> index of the set that serves each (0 is the base, gain 1)."""


def route_unet_(unet: nn.Module, route: Route, selection: Selection) -> RemovableHandle:
    """Attach the router to a unet; the one place where timesteps meet sets, in training and in sampling alike.

    The timestep may be given by position or by keyword, as one number for the whole batch or one per sample, whole or
    fractional (Euler's): diffusers schedulers hand the unet positions on the *training* axis [0, T). The choice stays
    in force until the next call, so that recomputation under activation checkpointing sees the same sets.
    """

    def choose(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        t = torch.as_tensor(timestep, device=sample.device)
        selection.choose(route(t.expand(sample.shape[0]) if t.ndim == 0 else t))

    return unet.register_forward_pre_hook(choose, with_kwargs=True)
