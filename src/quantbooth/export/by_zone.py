"""One denoiser for each zone of timesteps, in plain diffusers: quantbooth is not needed to use this file.

A folder that `quantbooth-export` wrote for experts holds this file, `by_zone.json` and, beside the denoiser's own
folder (`unet/`), a folder for each further one. In Python, from within the folder:

    from by_zone import load
    pipeline = load(".")
    pipeline("a photo of a sks mug").images[0].save("mug.png")

Loaded without it, the denoiser's own folder serves all timesteps.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

__all__ = ["ZONES", "by_zone_", "load"]

ZONES = "by_zone.json"
"""A list of [first timestep, timestep after the last, folder of the denoiser]; together they cover all timesteps."""


def load(folder: str, **options: Any) -> Any:
    """The pipeline in a folder, each of its timesteps served by the denoiser of its zone.

    Args:
        folder: the exported one.
        options: of `from_pretrained`, such as torch_dtype.
    """
    pipeline = DiffusionPipeline.from_pretrained(folder, **options)
    rows = json.loads((Path(folder) / ZONES).read_text(encoding="utf-8"))
    names = sorted({name for _, _, name in rows})
    main = next(name for name in names if name in pipeline.components)
    denoiser = getattr(pipeline, main)
    others = {name: type(denoiser).from_pretrained(folder, subfolder=name, **options) for name in names if name != main}
    by_zone_(denoiser, main, others, rows)
    return pipeline


def by_zone_(denoiser: Any, main: str, others: Mapping[str, Any], rows: list[tuple[int, int, str]]) -> None:
    """Let the denoiser of a pipeline hand each call to the one whose zone holds the timestep; others move with it.

    The timestep is one number for the whole batch, as samplers give it; it may be fractional.
    """
    for name, other in others.items():
        denoiser.add_module(name, other)
    forwards: dict[str, Callable[..., Any]] = {name: other.forward for name, other in others.items()}
    denoiser.forward = partial(
        _forward, {main: denoiser.forward, **forwards}, [(first, end, name) for first, end, name in rows]
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
