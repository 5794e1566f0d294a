"""What tuning leaves on disk: the learned numbers after chosen steps, and the strategy they were learned with."""

import json
from pathlib import Path

from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantbooth.errors import UserError
from quantbooth.timesteps.strategies import Strategy, from_description

__all__ = ["read_snapshot", "read_strategy", "snapshot_path", "write_snapshot", "write_strategy"]

STRATEGY = "strategy.json"


def snapshot_path(folder: Path, step: int) -> Path:
    """Where the numbers after a step are."""
    return folder / f"step-{step:06d}.safetensors"


def write_snapshot(folder: Path, step: int, state: dict[str, Shaped[Tensor, "..."]]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, snapshot_path(folder, step))


def read_snapshot(folder: Path, step: int) -> dict[str, Shaped[Tensor, "..."]]:
    """The numbers after a step.

    Raises:
        UserError: when that step was not kept (the message tells which were), or its file is damaged.
    """
    path = snapshot_path(folder, step)
    if not path.is_file():
        kept = ", ".join(str(int(p.stem.removeprefix("step-"))) for p in sorted(folder.glob("step-*.safetensors")))
        raise UserError(f"{folder.name} keeps the steps {kept}, not {step}; see protocol.at_steps")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read: {error}; remove {folder} and tune again") from error


def write_strategy(folder: Path, strategy: Strategy) -> None:
    (folder / STRATEGY).write_text(json.dumps(strategy.describe(), indent=1))


def read_strategy(folder: Path) -> Strategy:
    return from_description(json.loads((folder / STRATEGY).read_text()))
