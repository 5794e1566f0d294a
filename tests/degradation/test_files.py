"""Degradation measurements on disk: rows, record and reference tensors come back as they were."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quantbooth.degradation.files import (
    KIND,
    Record,
    Reference,
    read_degradation,
    read_reference,
    write_degradation,
    write_reference,
    write_truth,
)
from quantbooth.runtime.errors import UserError
from quantbooth.store.store import Store

RECORD = Record(
    base="toy",
    zones={"early": [0, 300], "late": [300, 1000]},
    quant="w4",
    bits=4,
    calibration="mse",
    options={"lp_norm": 2.4, "points": 80},
    layers=117,
    left_float=["conv_in", "conv_out"],
    file_bytes=2_470_000,
    held_out="20 captions",
    seed=2,
    sampler="ddim, 25 steps, guidance 4",
    scorer="an encoder | a locator",
    reference="f" * 64,
    source="toy-w4-46bfe3b71c8b",
)
ROW = {
    "zone": "early",
    "place": 3,
    "t": 17,
    "text": 'a "red", mug',
    "float_error": 0.1 + 0.2,
    "error": 1e-17 / 3,
    "deviation": 0.0,
}
PICTURE = {"file": "0000.png", "text": "a mug", "noise_seed": 0, "clip_t": 1 / 3, "ssim": 0.7, "mse": 0.01}


def test_a_measurement_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    with Store(tmp_path).writing(KIND, "toy-w4-mse", {"a": 1}, {}, {}) as draft:
        write_degradation(draft.path, RECORD, [ROW], [PICTURE])
    found = read_degradation(draft.destination)
    assert (found.record, found.run, found.folder) == (RECORD, draft.destination.name, draft.destination)
    assert found.predictions.to_dict("records") == [ROW]
    assert found.pictures.to_dict("records") == [PICTURE]
    assert found.truth is None
    assert not found.is_float


def test_float_has_the_true_pictures_and_the_reference_beside_it(tmp_path: Path, generator: torch.Generator) -> None:
    reference = Reference(*torch.randn(2, 3, 4, 2, 2, generator=generator).unbind())
    with Store(tmp_path).writing(KIND, "toy-fp", {"a": 2}, {}, {}) as draft:
        write_degradation(draft.path, replace(RECORD, bits=None, quant="fp"), [ROW], [PICTURE])
        write_truth(draft.path, [PICTURE])
        write_reference(draft.path, reference)
    found, again = read_degradation(draft.destination), read_reference(draft.destination)
    assert found.is_float
    assert found.truth is not None
    assert found.truth.to_dict("records") == [PICTURE]
    assert torch.equal(again.latents, reference.latents)
    assert torch.equal(again.predicted, reference.predicted)


def test_another_folder_is_refused_by_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="must hold a measurement of degradation, found nothing; make it with quantbooth-degradation"
    ):
        read_degradation(tmp_path / "gone")
