"""Snapshots on disk: the trained parameters after chosen steps, with a manifest of how they were tuned."""

import os
from pathlib import Path

import torch
from jaxtyping import Shaped
from safetensors.torch import save_file
from torch import Tensor

from quantbooth.diffusion.weights import cast, require_finite
from quantbooth.runtime.errors import UserError
from quantbooth.store.documents import read_tensors
from quantbooth.store.manifest import Manifest, open_artifact
from quantbooth.timesteps.strategies import Strategy, from_description

__all__ = [
    "TUNED",
    "last_step",
    "open_tuned",
    "precision_of",
    "read_snapshot",
    "snapshot_path",
    "steps_kept",
    "strategy_of",
    "write_snapshot",
]

GAINS = ("gain_in", "gain_out", "gain_groups")
FAR = 100
"""The largest gain that is read: 1 is the base, and no scale of a weight is a hundred times too small."""

TUNED = ("scale_sets", "tuned_weights", "adapters")
"""Kinds of tuned artifacts."""
PRECISIONS = {"float32": torch.float32, "float16": torch.float16}
"""Dtypes of saved floats: the relative error of a gain near 1 is at most 1 / 2048 in float16 (bfloat16: 8 / 2048)."""


def snapshot_path(folder: Path, step: int) -> Path:
    """Return the file of the snapshot after a step."""
    return folder / f"step-{step:06d}.safetensors"


def write_snapshot(
    folder: Path, step: int, state: dict[str, Shaped[Tensor, "..."]], precision: torch.dtype = torch.float32
) -> None:
    """Write the parameters after a step, floats in this precision, as a file that appears whole.

    Raises:
        UserError: when a value overflows it.
    """
    kept = {name: cast(name, tensor, precision, "resources.save_dtype") for name, tensor in state.items()}
    partial = folder / f".step-{step:06d}.{os.getpid()}.partial"
    save_file(kept, partial)
    partial.rename(snapshot_path(folder, step))


def precision_of(name: str) -> torch.dtype:
    """Return the dtype of that name."""
    return PRECISIONS[name]


def read_snapshot(folder: Path, step: int) -> dict[str, Shaped[Tensor, "..."]]:
    """Read the parameters after a step.

    Raises:
        UserError: when that step was not saved (the message lists the saved ones), its file is damaged or has metadata,
            a number is not finite, or a gain is far from 1.
    """
    path = snapshot_path(folder, step)
    if not path.is_file():
        kept = ", ".join(map(str, steps_kept(folder)))
        raise UserError(f"{folder.name} keeps the steps {kept}, not {step}; see protocol.eval_steps")
    state = read_tensors(path)
    require_finite(state, str(path))
    for name, tensor in state.items():
        if name.rpartition(".")[2] not in GAINS:
            continue
        if not tensor.is_floating_point():
            raise UserError(f"{path}: {name} must be floating-point, found {str(tensor.dtype)[6:]}; tune again")
        if (far := float(tensor.abs().amax())) > FAR:
            raise UserError(f"{path}: gains must be between {-FAR} and {FAR}, found {far:.4g} in {name}; tune again")
    return state


def steps_kept(folder: Path) -> list[int]:
    """Return the saved steps in ascending order."""
    steps = (path.stem.removeprefix("step-") for path in folder.glob("step-*.safetensors"))
    return sorted(int(step) for step in steps if step.isdecimal())


def last_step(folder: Path) -> int:
    """Return the last saved step.

    Raises:
        UserError: when there is none.
    """
    if not (steps := steps_kept(folder)):
        raise UserError(f"{folder} must hold the parameters after a step, found none; tune again")
    return steps[-1]


def open_tuned(folder: Path) -> Manifest:
    """Return the manifest of a tuned artifact; a folder outside the store is read as scale sets.

    Raises:
        UserError: when it is not such an artifact.
    """
    return open_artifact(folder, folder.parent.name if folder.parent.name in TUNED else TUNED[0])


def strategy_of(manifest: Manifest) -> Strategy:
    """Return the strategy of a tuned artifact.

    Raises:
        UserError: when its manifest has none.
    """
    try:
        return from_description(manifest.contents["strategy"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{manifest.name} must say with which strategy it was tuned: {error!r}") from error
