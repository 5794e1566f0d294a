"""One denoiser per zone of timesteps, in plain diffusers; this file does not need quantbooth.

`quantbooth-export` writes this file and `by_zone.json` into the folder of several experts, with one folder per denoiser
(`unet_1_clean_up/`, ...). In Python, in that folder:

    from by_zone import load
    pipeline = load(".")
    pipeline("a photo of a sks mug").images[0].save("mug.png")

There is no `unet/`, so a plain `from_pretrained` ends in an error and does not use one expert for all timesteps.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers

__all__ = ["ZONES", "by_zone_", "load"]

ZONES = "by_zone.json"
"""The denoiser's component of the pipeline; a list of [first timestep, timestep after the last, folder], which together
cover all timesteps; and [scale, offset] of t = scale * (what the denoiser is given as timestep) - offset."""


def load(folder: str, **options: Any) -> Any:
    """Return the pipeline of a folder; each timestep uses the denoiser of its zone.

    Args:
        folder: the exported folder.
        options: of `from_pretrained`, such as torch_dtype.
    """
    about = json.loads((Path(folder) / ZONES).read_text(encoding="utf-8"))
    component, rows = about["component"], [(first, end, name) for first, end, name in about["zones"]]
    denoisers = {name: _denoiser(folder, name, options) for name in sorted({name for _, _, name in rows})}
    first, *_ = denoisers
    given = {component: denoisers[first], **dict.fromkeys(_absent(folder)), **options}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **given)
    by_zone_(denoisers.pop(first), first, denoisers, rows, tuple(about.get("time", (1.0, 0.0))))
    return pipeline


def _absent(folder: str) -> list[str]:
    """Return the text encoders and tokenizers that the pipeline does not have; diffusers wants them as None."""
    index = json.loads((Path(folder) / "model_index.json").read_text(encoding="utf-8"))
    return [part for part, value in index.items() if part.startswith(("text", "token")) and value == [None, None]]


def _denoiser(folder: str, name: str, options: Mapping[str, Any]) -> Any:
    config = json.loads((Path(folder) / name / "config.json").read_text(encoding="utf-8"))
    return getattr(diffusers, config["_class_name"]).from_pretrained(folder, subfolder=name, **options)


def by_zone_(
    denoiser: Any,
    main: str,
    others: Mapping[str, Any],
    rows: list[tuple[int, int, str]],
    time: tuple[float, ...] = (1.0, 0.0),
) -> None:
    """Route each call of the denoiser `main` to the one of the timestep's zone; the others move along with it.

    The timestep is the same for the whole batch, as in samplers; it may be fractional. `time` has its scale and offset.
    """
    for name, other in others.items():
        denoiser.add_module(name, other)
    forwards: dict[str, Callable[..., Any]] = {name: other.forward for name, other in others.items()}
    denoiser.forward = partial(_forward, {main: denoiser.forward, **forwards}, rows, time)


def _forward(
    forwards: Mapping[str, Callable[..., Any]],
    rows: list[tuple[int, int, str]],
    time: tuple[float, ...],
    *args: Any,
    **kwargs: Any,
) -> Any:
    given = kwargs["timestep"] if "timestep" in kwargs else args[1]
    scale, offset = time
    t = max(0.0, round(scale * float(given if isinstance(given, int | float) else given.flatten()[0]), 2) - offset)
    for first, end, name in rows:
        if first <= t < end:
            return forwards[name](*args, **kwargs)
    raise ValueError(f"no zone of {ZONES} contains the timestep {t}")
