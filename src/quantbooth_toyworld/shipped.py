"""The shipped toy bases and judges: their folders in the package, and reading and writing of judges.

A judge is two files: weights in half precision (`scorer.safetensors`) and its constructor arguments (`scorer.json`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from quantbooth.runtime.errors import UserError
from quantbooth.store.files import halved

__all__ = ["base_folder", "flow_folder", "halve_", "judges_folder", "read_judge", "save_judge"]

ASSETS = Path(__file__).parent / "assets"


def base_folder() -> Path:
    """Return the diffusers folder of the toy base."""
    return ASSETS / "base"


def flow_folder() -> Path:
    """Return the diffusers folder of the toy flow base."""
    return ASSETS / "flow" / "base"


def judges_folder() -> Path:
    """Return the folder of scorer, locator and oracle."""
    return ASSETS / "judges"


FORMAT = 1


class Judge(Protocol):
    """A network with a kind, which is its file's name, and its constructor arguments."""

    kind: str
    config: dict[str, Any]


J = TypeVar("J", bound=nn.Module)


def save_judge(judge: nn.Module, folder: str | Path, figures: Mapping[str, float] | None = None) -> None:
    """Write a judge and its held-out figures, with floats in 16 bits."""
    described = cast(Judge, judge)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    about = {"format": FORMAT, "kind": described.kind, "config": described.config, "figures": dict(figures or {})}
    (path / f"{described.kind}.safetensors").write_bytes(save(halved(judge)))
    (path / f"{described.kind}.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def read_judge(kind: type[J], folder: Path) -> J:
    """Build the judge of a folder's description and load its weights strictly; frozen, in 32 bits.

    Raises:
        UserError: when a file is missing, unreadable, of another kind or format, or the weights do not fit.
    """
    name = cast(type[Judge], kind).kind
    about, weights = _read(folder / f"{name}.json", folder / f"{name}.safetensors")
    if about.get("kind") != name or about.get("format") != FORMAT:
        found = f"kind {about.get('kind')!r}, format {about.get('format')!r}"
        raise UserError(f"{folder / name}.json must describe a {name} in format {FORMAT}, got {found}")
    judge = kind(**about["config"])
    _check_fit(judge.state_dict(), weights, folder / f"{name}.safetensors")
    judge.load_state_dict({key: value.to(judge.state_dict()[key].dtype) for key, value in weights.items()})
    return judge.requires_grad_(False).eval()


def halve_(judge: nn.Module) -> None:
    """Round the weights in place to the stored precision, so that figures are those of the stored judge."""
    judge.load_state_dict({key: value.to(judge.state_dict()[key].dtype) for key, value in halved(judge).items()})


def _read(description: Path, weights: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for file in (description, weights):
        if not file.is_file():
            raise UserError(
                f"no toy judge at {file}; name another folder, or train the judges with quantbooth-pretrain"
            )
    try:
        return json.loads(description.read_text(encoding="utf-8")), load_file(weights)
    except (json.JSONDecodeError, SafetensorError) as error:
        raise UserError(f"the toy judge {description.stem} in {description.parent} is damaged ({error})") from error


def _check_fit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], file: Path) -> None:
    for key in sorted(expected.keys() ^ found.keys()):
        raise UserError(f"{file} must hold the weights its description names, got {key} on one side only")
    for key, value in expected.items():
        if value.shape != found[key].shape:
            shapes = f"{list(value.shape)}, got {list(found[key].shape)}"
            raise UserError(f"{file} must hold the weights its description names: {key} must be {shapes}")
        if not torch.isfinite(found[key]).all():
            raise UserError(f"{file} holds values that are not finite in {key}")
