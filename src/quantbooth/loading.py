"""A quantized base with what was tuned on it, as a diffusers pipeline: two lines of Python, no configuration.

    pipeline = quantbooth.load_pipeline("toy", "outputs/store/scale_sets/toy_mug-s2-w4-seed0-924f22e5976d")
    pipeline("a photo of a sks mug").images[0].save("mug.png")

The codes stay packed, and every timestep is served by its scale set. `initial_noise` gives the noise that
`quantbooth-sample` begins with, to be handed over as `latents`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantbooth.artifacts.manifest import Manifest, open_artifact
from quantbooth.artifacts.quantized_base import read_quantized_denoiser
from quantbooth.artifacts.tuned import read_snapshot, read_strategy, steps_kept
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.identifier import attach_rows_
from quantbooth.diffusion.pretrained import as_pipeline, load_base
from quantbooth.diffusion.router import route_
from quantbooth.diffusion.sampling import initial_noise
from quantbooth.diffusion.sources import source_folder
from quantbooth.errors import UserError
from quantbooth.quant import adapters, scale_sets
from quantbooth.quant.named import require_fit
from quantbooth.quant.selection import Selection
from quantbooth.toyworld.shipped import base_folder

__all__ = ["initial_noise", "load_pipeline", "load_tuned"]

TOY = "toy"
TUNED = ("scale_sets", "tuned_weights", "adapters")
"""Kinds of what was tuned; a folder that is in none of theirs is taken for the first."""
ROWS = "identifier."


def load_pipeline(
    base: str | Path,
    tuned: str | Path | None = None,
    quantized_base: str | Path | None = None,
    step: int | None = None,
) -> Any:
    """A diffusers pipeline whose pictures are those of `quantbooth-sample` from the same noise.

    Args:
        base: the diffusers folder that was quantized, or "toy" for the one that ships.
        tuned: a folder that `quantbooth-tune` made; none gives the base.
        quantized_base: a folder that `quantbooth-calibrate` made; where none is given, the one in the same store that
            `tuned` was tuned on.
        step: of the run; the last that was kept where none is given.

    Raises:
        UserError: when something is missing, is something else, or does not belong together.
    """
    folder = base_folder() if base == TOY else source_folder(str(base))
    learned, quantized = (None if place is None else Path(place) for place in (tuned, quantized_base))
    return as_pipeline(load_tuned(folder, str(base), learned, quantized, step))


def load_tuned(
    folder: Path, name: str, tuned: Path | None, quantized_base: Path | None = None, step: int | None = None
) -> Base:
    """A base with what was tuned on it, each timestep served by its set; arguments as of `load_pipeline`."""
    manifest = None if tuned is None else _tuned_manifest(tuned)
    quantized = quantized_base or _quantized(tuned, manifest)
    if manifest is not None and quantized is not None:
        manifest.require_parent("quantized_base", open_artifact(quantized, "quantized_base").fingerprint)
    base = load_base(folder, name, None if quantized is None else read_quantized_denoiser(quantized, folder))
    if tuned is not None:
        _teach_(base, tuned, steps_kept(tuned)[-1] if step is None else step)
    return base


def _tuned_manifest(folder: Path) -> Manifest:
    kind = folder.parent.name if folder.parent.name in TUNED else TUNED[0]
    return open_artifact(folder, kind)


def _quantized(tuned: Path | None, manifest: Manifest | None) -> Path | None:
    """The quantized base in the same store that something was tuned on; None where it was tuned on the float one."""
    fingerprint = None if manifest is None else manifest.parents.get("quantized_base")
    if tuned is None or fingerprint is None:
        return None
    place = tuned.resolve().parent.parent / "quantized_base"
    for folder in place.glob(f"*-{fingerprint[:12]}"):
        return folder
    raise UserError(
        f"{tuned} was tuned on the quantized base {fingerprint[:12]}, which is not in {place}; name its folder"
    )


def _teach_(base: Base, folder: Path, step: int) -> None:
    """Put what was learned into a base; names tell what it is."""
    state, strategy, selection = read_snapshot(folder, step), read_strategy(folder), Selection()
    rows = {int(name.removeprefix(ROWS)): state.pop(name) for name in list(state) if name.startswith(ROWS)}
    if rows:
        learned = attach_rows_(base, tuple(rows)).rows
        with torch.no_grad():
            learned.copy_(torch.stack(list(rows.values())))
    if any(name.endswith(".gain_out") for name in state):
        scale_sets.attach_(base.denoiser, strategy.sets, selection, scale_sets.parts_of(base.denoiser, state))
        scale_sets.load_(base.denoiser, state)
        route_(base, strategy.route, selection)
    elif any(name.endswith(".lora_A") for name in state):
        adapters.serve_(base.denoiser, state, selection)
        route_(base, strategy.route, selection)
    else:
        _load_weights_(base, state)


def _load_weights_(base: Base, state: Mapping[str, Tensor]) -> None:
    require_fit(base.denoiser.state_dict(), dict(state), "the denoiser", "what was tuned")
    base.denoiser.load_state_dict(dict(state), strict=True)
