"""One denoiser per zone of timesteps, in plain diffusers; this file does not need quantbooth.

`quantbooth-export` writes this file and `by_zone.json` into the folder of several experts, with one folder per further
denoiser next to `unet/`. In Python, in that folder:

    from by_zone import load
    pipeline = load(".")
    pipeline("a photo of a sks mug").images[0].save("mug.png")

Without this file, `unet/` is used for all timesteps.
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
    """Return the pipeline of a folder; each timestep uses the denoiser of its zone.

    Args:
        folder: the exported folder.
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
    """Route each call of a pipeline's denoiser to the denoiser of the timestep's zone; the others move along with it.

    The timestep is one number for the whole batch, as in samplers; it may be fractional.
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
    raise ValueError(f"no zone of {ZONES} contains the timestep {t}")
