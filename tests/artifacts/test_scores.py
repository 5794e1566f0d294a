"""Scores on disk: rows and record come back as they were, to the last bit."""

import math
from dataclasses import replace
from pathlib import Path

import torch

from quantbooth.artifacts.scores import Record, read_record, read_rows, write_scores

RECORD = Record(
    method="s2",
    subject="rex",
    quant="w4",
    seed=0,
    step=200,
    base="toy",
    scorer="an encoder | a locator",
    protocol="quick, 1 seeds a prompt",
    costs={"seconds": 12.5, "trainable": 6408},
    images="image_set/rex-s2",
    run="rex-s2",
)


def rows(count: int, generator: torch.Generator) -> list[dict[str, object]]:
    values = torch.rand(count, 2, generator=generator, dtype=torch.float64).tolist()
    return [
        {"prompt": 'a {} in, "the" snow', "kind": "context", "noise_seed": i, "clip_t": a, "clip_i": -b / 1e7}
        for i, (a, b) in enumerate(values)
    ]


def test_rows_come_back_to_the_last_bit(tmp_path: Path, generator: torch.Generator) -> None:
    written = rows(200, generator)
    write_scores(tmp_path, RECORD, written)
    assert read_rows(tmp_path).to_dict("records") == written


def test_a_score_that_could_not_be_had_stays_missing(tmp_path: Path) -> None:
    write_scores(tmp_path, RECORD, [{"file": "a.png", "oracle": math.nan}, {"file": "b.png", "oracle": 0.5}])
    assert read_rows(tmp_path)["oracle"].isna().tolist() == [True, False]


def test_a_record_comes_back(tmp_path: Path) -> None:
    write_scores(tmp_path, RECORD, [{"clip_t": 0.5}])
    assert read_record(tmp_path) == RECORD
    assert read_record(tmp_path) != replace(RECORD, step=100)
