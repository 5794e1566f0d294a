"""Scores on disk: rows and record come back as they were, to the last bit, each metric with what measured it."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from quantbooth.evaluation.files import ABOUT, Record, read_measured, read_record, read_rows, write_scores
from quantbooth.runtime.errors import UserError

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
WITH = {"clip_t": "an encoder; texts", "clip_i": "an encoder; photos", "oracle": "an oracle", "kept": "an encoder"}


def rows(count: int, generator: torch.Generator) -> list[dict[str, object]]:
    values = torch.rand(count, 2, generator=generator, dtype=torch.float64).tolist()
    about = {"prompt": 'a {} in, "the" snow', "kind": "context"}
    return [
        {**about, "noise_seed": i, "file": f"{count - i}.png", "clip_t": a, "clip_i": -b / 1e7}
        for i, (a, b) in enumerate(values)
    ]


def picture(name: str, **metrics: float) -> dict[str, object]:
    return {"prompt": "a {}", "kind": "plain", "noise_seed": 0, "file": name, **metrics}


def test_rows_come_back_to_the_last_bit_and_in_their_order(tmp_path: Path, generator: torch.Generator) -> None:
    written = rows(200, generator)
    write_scores(tmp_path, RECORD, written, WITH)
    assert read_rows(tmp_path).to_dict("records") == written


def test_on_disk_there_is_a_row_for_each_picture_and_metric(tmp_path: Path, generator: torch.Generator) -> None:
    first, second = rows(2, generator)
    write_scores(tmp_path, RECORD, [first, second], WITH)
    found = pd.read_parquet(tmp_path / "rows.parquet")
    assert list(found) == ["subject", "step", *ABOUT, "metric", "value", "measured_with"]
    assert found["metric"].tolist() == ["clip_t", "clip_i"] * 2
    assert found["value"].tolist() == [first["clip_t"], first["clip_i"], second["clip_t"], second["clip_i"]]
    assert found["measured_with"].tolist() == [WITH["clip_t"], WITH["clip_i"]] * 2
    assert set(zip(found["subject"], found["step"], strict=True)) == {("rex", 200)}


def test_a_score_that_could_not_be_had_stays_missing_and_one_not_asked_for_has_no_row(tmp_path: Path) -> None:
    written = [picture("a.png", oracle=math.nan), picture("b.png", oracle=0.5), picture("c.png", kept=0.25)]
    write_scores(tmp_path, RECORD, written, WITH)
    assert read_rows(tmp_path)["oracle"].isna().tolist() == [True, False, True]
    assert read_rows(tmp_path)["kept"].isna().tolist() == [True, True, False]
    assert read_measured(tmp_path)["file"].tolist() == ["a.png", "b.png", "c.png"]


def test_a_metric_nobody_knows_the_origin_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^every metric .* for guess$"):
        write_scores(tmp_path, RECORD, [picture("a.png", oracle=1.0, guess=0.5)], WITH)


def test_the_same_rows_make_the_same_bytes(tmp_path: Path, generator: torch.Generator) -> None:
    written, files = rows(5, generator), []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write_scores(tmp_path / name, RECORD, written, WITH)
        files.append((tmp_path / name / "rows.parquet").read_bytes())
    assert files[0] == files[1]


def test_rows_of_before_are_read_with_the_scorer_of_their_record(tmp_path: Path, generator: torch.Generator) -> None:
    written = rows(20, generator)
    pd.DataFrame(written).to_csv(tmp_path / "rows.csv", index=False)
    (tmp_path / "record.json").write_text(json.dumps(asdict(RECORD)))
    assert read_rows(tmp_path).to_dict("records") == written
    long = read_measured(tmp_path)
    assert list(long) == ["subject", "step", *ABOUT, "metric", "value", "measured_with"]
    assert long["metric"].tolist() == ["clip_t", "clip_i"] * 20
    assert set(long["measured_with"]) == {RECORD.scorer}


def test_rows_that_are_gone_or_damaged_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no rows\.parquet; remove the folder and evaluate again$"):
        read_rows(tmp_path)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"rows\.parquet cannot be read: .*; remove its folder and make it again$"):
        read_rows(tmp_path)


def test_a_record_comes_back(tmp_path: Path) -> None:
    write_scores(tmp_path, RECORD, [picture("a.png", clip_t=0.5)], WITH)
    assert read_record(tmp_path) == RECORD
    assert read_record(tmp_path) != replace(RECORD, step=100)


@pytest.mark.parametrize("key", ["images", "run"])
@pytest.mark.parametrize("place", ["image_set/../../elsewhere", "/elsewhere", "image_set/C:elsewhere", "", "a/./b"])
def test_a_record_of_what_is_out_of_the_store_is_refused(tmp_path: Path, key: str, place: str) -> None:
    (tmp_path / "record.json").write_text(json.dumps(asdict(RECORD) | {key: place}))
    with pytest.raises(UserError, match=rf"record\.json: {key} must"):
        read_record(tmp_path)
