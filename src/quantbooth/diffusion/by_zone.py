"""One unet for each zone of timesteps, in plain diffusers: quantbooth is not needed to use this file.

A folder that `quantbooth-export` wrote for experts holds this file, `by_zone.json` and, beside `unet/`, a folder for
each further unet. In Python, from within the folder:

    from by_zone import load
    pipeline = load(".")
    pipeline("a photo of a sks mug").images[0].save("mug.png")

Loaded without it, the folder's own `unet/` serves all timesteps.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline, UNet2DConditionModel

__all__ = ["ZONES", "by_zone_", "load"]

ZONES = "by_zone.json"
"""A list of [first timestep, timestep after the last, folder of the unet]; together they cover all timesteps."""


def load(folder: str, **options: Any) -> Any:
    """The pipeline in a folder, each of its timesteps served by the unet of its zone.

    Args:
        folder: the exported one.
        options: of `from_pretrained`, such as torch_dtype.
    """
    pipeline = DiffusionPipeline.from_pretrained(folder, **options)
    rows = json.loads((Path(folder) / ZONES).read_text(encoding="utf-8"))
    others = {name for _, _, name in rows} - {"unet"}
    unets = {name: UNet2DConditionModel.from_pretrained(folder, subfolder=name, **options) for name in sorted(others)}
    by_zone_(pipeline.unet, unets, rows)
    return pipeline


def by_zone_(unet: Any, others: Mapping[str, Any], rows: list[tuple[int, int, str]]) -> None:
    """Let the unet of a pipeline hand each call to the unet whose zone holds the timestep; others move with it.

    The timestep is one number for the whole batch, as samplers give it; it may be fractional.
    """
    for name, other in others.items():
        unet.add_module(name, other)
    forwards: dict[str, Callable[..., Any]] = {name: other.forward for name, other in others.items()}
    unet.forward = partial(
        _forward, {"unet": unet.forward, **forwards}, [(first, end, name) for first, end, name in rows]
    )


def _forward(
    forwards: Mapping[str, Callable[..., Any]],
    rows: list[tuple[int, int, str]],
    sample: Any,
    timestep: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    t = float(timestep)
    for first, end, name in rows:
        if first <= t < end:
            return forwards[name](sample, timestep, *args, **kwargs)
    raise ValueError(f"no zone of {ZONES} holds the timestep {t}")
