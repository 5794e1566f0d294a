"""Degradation numbers: every mean as the artifacts hold it, added errors by zone, intervals around all of them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from quantbooth.degradation.files import DegradationResult
from quantbooth.degradation.study import DegradationStudy
from quantbooth.degradation.tables import attributes, numbers

MakeDegradation = Callable[..., DegradationResult]


@pytest.fixture
def table(make_degradation: MakeDegradation) -> pd.DataFrame:
    return numbers(DegradationStudy((make_degradation("fp"), make_degradation("w4", 0.1), make_degradation("w2", 0.5))))


def test_rows_are_true_pictures_float_and_settings(table: pd.DataFrame) -> None:
    assert table.index.tolist() == ["true pictures", "float", "w4", "w2"]
    assert attributes(table) == ["class_word", "colour"]
    assert table.loc["w4", ["quant", "bits", "layers", "file_bytes"]].tolist() == ["w4", 4, 117, 4_000_000]


def test_means_are_those_of_the_rows(table: pd.DataFrame, make_degradation: MakeDegradation) -> None:
    found = make_degradation("w2", 0.5)
    for zone in ("clean_up", "content"):
        rows = found.predictions[found.predictions["zone"] == zone]
        for name in ("float_error", "error", "deviation"):
            assert table.loc["w2", f"{zone}_{name}"] == pytest.approx(np.mean(rows[name]))
        added = np.mean(rows["error"]) - np.mean(rows["float_error"])
        assert table.loc["w2", f"{zone}_added"] == pytest.approx(added)
        assert table.loc["w2", f"{zone}_relative"] == pytest.approx(0.5)
    pictures = found.pictures
    for name in ("ssim", "mse", "clip_t"):
        assert table.loc["w2", name] == pytest.approx(pictures[name].mean())
    assert table.loc["w2", "psnr"] == pytest.approx(-10 * np.log10(pictures["mse"].mean()))
    assert table.loc["w2", "clip_t_change"] == pytest.approx(-0.5)
    assert table.loc["w2", "right_colour"] == 0.5


def test_every_mean_lies_in_its_interval(table: pd.DataFrame) -> None:
    for name in (column.removesuffix("_low") for column in table if column.endswith("_low")):
        rows = table[[f"{name}_low", name, f"{name}_high"]].dropna()
        assert (rows[f"{name}_low"] <= rows[name] + 1e-12).all(), name
        assert (rows[name] <= rows[f"{name}_high"] + 1e-12).all(), name
    assert table.loc["w4", "clean_up_error_low"] < table.loc["w4", "clean_up_error"]


def test_float_takes_no_damage_and_fewer_bits_take_more(table: pd.DataFrame) -> None:
    for name in ("clean_up_added", "clean_up_relative", "content_deviation", "clip_t_change", "mse"):
        assert table.loc["float", [name, f"{name}_low", f"{name}_high"]].tolist() == [0, 0, 0]
    assert table.loc["float", "ssim"] == 1
    assert table.loc["float", "psnr"] == np.inf
    assert table.loc["w2", "content_relative_low"] > table.loc["w4", "content_relative_high"]


def test_pictures_of_other_questions_are_refused(make_degradation: MakeDegradation) -> None:
    fp, w4 = make_degradation("fp"), make_degradation()
    w4 = replace(w4, pictures=w4.pictures.drop(index=3))
    with pytest.raises(ValueError, match="must be of the same questions"):
        numbers(DegradationStudy((fp, w4)))
