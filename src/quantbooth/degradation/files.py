"""A degradation measurement on disk: rows of prediction errors and pictures, and the record of the measurement."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from quantbooth.evaluation.rows import read_csv
from quantbooth.runtime.errors import UserError
from quantbooth.store.documents import read_as, read_tensors
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
ERRORS = (("zone", "text"), ("place", "t", "float_error", "error", "deviation"))
"""Columns of the predictions: texts, numbers."""
RIGHT = "right_"
"""Prefix of the picture columns that say whether a requested attribute is right."""


@dataclass(frozen=True)
class Record:
    """What a measurement is about.

    Attributes:
        base: name of the base.
        zones: its zones, name to [start, stop].
        quant: fp, w8, w4, ...
        bits: of a weight; None for float.
        calibration: name of the calibration; empty for float.
        options: of the calibration, to distinguish settings.
        layers: number of quantized layers.
        left_float: names of the float linear and convolution layers.
        file_bytes: of the denoiser with packed codes; for float at 32 bits per weight.
        held_out: name of the questions.
        seed: of questions, timesteps and noise.
        sampler: settings of the sampler.
        scorer: names of the encoder, locator and oracle.
        reference: fingerprint of the float measurement to compare with.
        source: name of the quantized base, or "float base".
        seconds: of calibration, with its calibration set; None without calibration.
        peak_memory_bytes: of the process during both, the larger.
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
    """The tensors of the float measurement that others need: x_0 per question, the prediction per triple."""

    latents: Float[Tensor, "n c h w"]
    predicted: Float[Tensor, "m c h w"]


@dataclass(frozen=True, eq=False)
class DegradationResult:
    """A finished measurement; only the float one has `truth`, the scores of the true pictures where they are known."""

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
    """Write the scores of the true pictures."""
    _write_rows(folder, TRUTH, rows)


def write_reference(folder: Path, reference: Reference) -> None:
    tensors = {"latents": reference.latents, "predicted": reference.predicted}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / REFERENCE)


def read_reference(folder: Path) -> Reference:
    """Read the tensors of the float measurement.

    Raises:
        UserError: when their file is damaged or has others.
    """
    tensors = read_tensors(folder / REFERENCE)
    if tensors.keys() != {"latents", "predicted"}:
        raise UserError(f"{folder / REFERENCE} must hold latents and predicted, found {', '.join(sorted(tensors))}")
    return Reference(**tensors)


def read_degradation(folder: Path) -> DegradationResult:
    """Read a measurement.

    Raises:
        UserError: when the folder is not a finished measurement.
    """
    manifest = open_artifact(folder, KIND)
    record = read_as(Record, folder / RECORD)
    truth = _read_pictures(folder, TRUTH) if (folder / f"{TRUTH}.csv").is_file() else None
    predictions, pictures = read_csv(folder / f"{PREDICTIONS}.csv", *ERRORS), _read_pictures(folder, PICTURES)
    return DegradationResult(record, manifest.name, folder, predictions, pictures, truth)


def _read_pictures(folder: Path, name: str) -> pd.DataFrame:
    return read_csv(folder / f"{name}.csv", ("file", "text"), ("noise_seed", "clip_t", "ssim", "mse"), RIGHT)


def _write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
