"""A damage measurement on disk: rows of prediction errors and of pictures, and the record of what was measured."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantbooth.store.manifest import open_artifact

__all__ = [
    "KIND",
    "PICTURES",
    "RIGHT",
    "TRUTH",
    "DegradationResult",
    "Record",
    "Reference",
    "read_degradation",
    "read_reference",
    "write_degradation",
    "write_reference",
    "write_truth",
]

KIND = "damage"
RECORD, REFERENCE = "record.json", "reference.safetensors"
PICTURES, TRUTH = "pictures", "truth"
PREDICTIONS = "predictions"
RIGHT = "right_"
"""How columns of pictures begin that say whether an attribute is as asked."""


@dataclass(frozen=True)
class Record:
    """What one measurement is about.

    Attributes:
        base: name of the base.
        zones: its zones, name to [start, stop].
        quant: fp, w8, w4, ...
        bits: of a weight; None for float.
        calibration: how scales were found, in short; empty for float.
        options: the calibration's own options, to tell settings of one calibration apart.
        layers: how many layers are quantized.
        left_float: names of the linear and convolution layers that are not.
        file_bytes: of the denoiser, codes packed; for float at 32 bits a weight.
        held_out: what the questions are.
        seed: of what was held out, of timesteps and noise.
        sampler: how the pictures were drawn.
        scorer: names of the encoder, locator and oracle.
        reference: fingerprint of the float measurement that the pictures and predictions are compared with.
        source: name of the quantized base, or "float base".
        seconds: that calibration took, with the drawing of its set; None where nothing was calibrated.
        peak_memory_bytes: of the process meanwhile, the larger of both.
    """

    base: str
    zones: dict[str, list[int]]
    quant: str
    bits: int | None
    calibration: str
    options: dict[str, Any]
    layers: int
    left_float: list[str]
    file_bytes: int
    held_out: str
    seed: int
    sampler: str
    scorer: str
    reference: str
    source: str
    seconds: float | None = None
    peak_memory_bytes: float | None = None


@dataclass(frozen=True, eq=False)
class Reference:
    """What every quantized measurement needs of the float one: x_0 of each question, its prediction of each triple."""

    latents: Float[Tensor, "n c h w"]
    predicted: Float[Tensor, "m c h w"]


@dataclass(frozen=True, eq=False)
class DegradationResult:
    """One finished measurement; `truth` judges the true pictures, where they are known, and lies with float only."""

    record: Record
    run: str
    folder: Path
    predictions: pd.DataFrame
    pictures: pd.DataFrame
    truth: pd.DataFrame | None

    @property
    def is_float(self) -> bool:
        return self.record.bits is None


def write_degradation(
    folder: Path, record: Record, predictions: list[dict[str, Any]], pictures: list[dict[str, Any]]
) -> None:
    (folder / RECORD).write_text(json.dumps(asdict(record), indent=1))
    _write_rows(folder, PREDICTIONS, predictions)
    _write_rows(folder, PICTURES, pictures)


def write_truth(folder: Path, rows: list[dict[str, Any]]) -> None:
    """What the judges say of the true pictures."""
    _write_rows(folder, TRUTH, rows)


def write_reference(folder: Path, reference: Reference) -> None:
    tensors = {"latents": reference.latents, "predicted": reference.predicted}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / REFERENCE)


def read_reference(folder: Path) -> Reference:
    return Reference(**load_file(folder / REFERENCE))


def read_degradation(folder: Path) -> DegradationResult:
    """A measurement.

    Raises:
        UserError: when the folder is no finished one.
    """
    manifest = open_artifact(folder, KIND)
    record = Record(**json.loads((folder / RECORD).read_text()))
    truth = pd.read_csv(folder / f"{TRUTH}.csv") if (folder / f"{TRUTH}.csv").is_file() else None
    predictions, pictures = (pd.read_csv(folder / f"{name}.csv") for name in (PREDICTIONS, PICTURES))
    return DegradationResult(record, manifest.name, folder, predictions, pictures, truth)


def _write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
