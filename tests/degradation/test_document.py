"""The degradation document: tables, plot and grid hold what the measurements do, and links lead to files."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from quantbooth.degradation import document
from quantbooth.degradation.document import same_noise_grid, write_document
from quantbooth.degradation.files import DegradationResult
from quantbooth.degradation.plots import Swept, curve_plot, error_plot, swept
from quantbooth.degradation.study import DegradationStudy
from quantbooth.degradation.tables import numbers, ratio_table

pytestmark = pytest.mark.chain

MakeDegradation = Callable[..., DegradationResult]


@pytest.fixture
def found(make_degradation: MakeDegradation) -> list[DegradationResult]:
    settings = [
        make_degradation(quant, added, calibration=name, left_float=kept)
        for quant, added in (("w8", 0.001), ("w4", 0.1), ("w2", 3.0))
        for name in ("mse", "minmax")
        for kept in (["conv_in", "conv_out"], [])
    ]
    return [make_degradation("fp"), *settings]


def test_tables_say_what_the_measurements_hold(found: list[DegradationResult], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_document(found, folder / "degradation.md", folder, 4, ["A note.", "Made by `a command`."])
    text = (folder / "degradation.md").read_text()
    for part in ("A note.", "`a command`", "Base toy", "20 captions", "toy scorer | toy oracle", "clean_up [0, 200)"):
        assert part in text
    assert "20 triples (x_t, t, text) in each zone" in text
    assert re.search("10 .*questions", text)
    for result in found:
        assert result.run in text
    row = next(line for line in text.splitlines() if line.startswith("| w4, mse, all quantized |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    error = found[0].predictions.query("zone == 'clean_up'")["float_error"].mean()
    assert cells[1:4] == ["117", "none", "4.00"]
    assert cells[4:6] == ["–", "–"]
    assert cells[6].startswith(f"{1.1 * error:.4f} (+10.0")
    assert cells[8] == "5.00 %"
    table = pd.read_csv(folder / "table.csv", index_col="label")
    assert table.loc["w4, mse, all quantized", "content_relative"] == pytest.approx(0.1)
    assert len(table) == 2 + 12


def test_calibrations_are_compared_at_the_same_bits_and_float_layers(make_degradation: MakeDegradation) -> None:
    settings = [
        make_degradation("w4", added, calibration=name, left_float=kept, seconds=12.4, peak_memory_bytes=1.5e9)
        for name, added in (("minmax", 0.4), ("mse", 0.2), ("qdiffusion", 0.1))
        for kept in (["conv_in"], [])
    ]
    table = ratio_table(DegradationStudy((make_degradation("fp"), *settings)))
    assert table is not None
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert len(rows) == 2 * 3
    assert rows[0] == ["w4, mse, conv_in float / minmax, conv_in float", *["0.50 [0.50, 0.50]"] * 2]
    found = {row[0]: row[1] for row in rows}
    assert found["w4, qdiffusion, all quantized / minmax, all quantized"] == "0.25 [0.25, 0.25]"


def test_one_calibration_is_compared_with_nothing(make_degradation: MakeDegradation) -> None:
    assert (
        ratio_table(DegradationStudy((make_degradation("fp"), make_degradation("w8"), make_degradation("w4")))) is None
    )


def test_what_calibration_took_is_told(make_degradation: MakeDegradation, tmp_path: Path) -> None:
    settings = [make_degradation("fp"), make_degradation("w4", seconds=1234.4, peak_memory_bytes=1.5e9)]
    write_document(settings, tmp_path / "degradation.md", tmp_path, 4, [])
    assert "| 4.00 | 1,234 | 1.50 |" in (tmp_path / "degradation.md").read_text()


@pytest.fixture
def over_iterations(make_degradation: MakeDegradation) -> list[DegradationResult]:
    learned = [
        make_degradation(
            quant, base / (1 + k), calibration="qdiffusion", options={"lp_norm": 2.4, "rounding.iterations": n}
        )
        for quant, base in (("w4", 0.4), ("w2", 4.0))
        for k, n in enumerate((100, 500, 2000))
    ]
    return [
        make_degradation("fp"),
        *(make_degradation(quant, 0.5, calibration="minmax") for quant in ("w4", "w2")),
        *learned,
    ]


def test_a_number_that_was_swept_gets_a_curve(over_iterations: list[DegradationResult], tmp_path: Path) -> None:
    study = DegradationStudy(tuple(over_iterations))
    found = swept(study)
    assert found == Swept("qdiffusion", "rounding.iterations")
    text = curve_plot(study, numbers(study), found)
    for part in ("w4, minmax", "w2, qdiffusion", "rounding.iterations", ">2000<", "content", "20 %"):
        assert part in text
    assert "w2, qdiffusion, rounding.iterations=500: clean_up 100.0 %, content 100.0 %" in text
    write_document(over_iterations, tmp_path / "degradation.md", tmp_path, 2, [])
    assert "](curve.svg)" in (tmp_path / "degradation.md").read_text() and (tmp_path / "curve.svg").is_file()


def test_two_values_or_words_make_no_curve(
    over_iterations: list[DegradationResult], make_degradation: MakeDegradation
) -> None:
    assert swept(DegradationStudy(tuple(over_iterations[:5]))) is None
    words = [make_degradation("w4", options={"set.source": word}) for word in ("sampler", "normal", "forward")]
    assert swept(DegradationStudy((make_degradation("fp"), *words))) is None


def test_links_lead_to_files_wherever_the_document_lies(found: list[DegradationResult], tmp_path: Path) -> None:
    page = tmp_path / "documents" / "degradation.md"
    write_document(found[:3], page, tmp_path / "documents" / "damage", 2, [])
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    assert links == ["damage/errors.svg", "damage/grid.png", "damage/table.csv"]
    assert all((page.parent / link).is_file() for link in links)


def test_float_alone_makes_a_document_without_a_plot(found: list[DegradationResult], tmp_path: Path) -> None:
    write_document(found[:1], tmp_path / "degradation.md", tmp_path, 2, [])
    assert "errors.svg" not in (tmp_path / "degradation.md").read_text()
    assert not (tmp_path / "errors.svg").exists()
    assert (tmp_path / "grid.png").is_file()


def test_the_plot_has_a_panel_for_each_zone_and_a_line_for_each_family(found: list[DegradationResult]) -> None:
    study = DegradationStudy(tuple(found))
    text = error_plot(study, numbers(study))
    for part in ("clean_up [0, 200)", "content [200, 1000)", "mse, all quantized", "w8", "w2", "100 %"):
        assert part in text
    assert "w4, mse, all quantized: clean_up +10.0 %, content +10.0 %" in text
    assert text == error_plot(study, numbers(study))


def test_the_grid_has_a_column_for_each_setting(found: list[DegradationResult]) -> None:
    two, three = (_size(same_noise_grid(DegradationStudy(tuple(found[:count])), 4)) for count in (2, 3))
    assert three[0] - two[0] == document.CELL + 6
    rows = _size(same_noise_grid(DegradationStudy(tuple(found[:3])), 5))[1] - three[1]
    assert rows == document.CELL + 6


def test_the_grid_shows_fewer_prompts_rather_than_grow_large(
    found: list[DegradationResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = DegradationStudy(tuple(found[:3]))
    whole = same_noise_grid(study, 10)
    monkeypatch.setattr(document, "BYTES", len(whole) // 2)
    assert len(same_noise_grid(study, 10)) <= len(whole) // 2
    monkeypatch.setattr(document, "BYTES", 10)
    assert _size(same_noise_grid(study, 10)) == _size(same_noise_grid(study, 1))


def test_a_sentence_that_comes_again_is_shown_with_its_noise_seed(found: list[DegradationResult]) -> None:
    found[0].pictures["text"] = "a mug"
    assert np.prod(_size(same_noise_grid(DegradationStudy((found[0],)), 3))) > 0
    rows = document._labelled(DegradationStudy((found[0],)), 3)
    assert list(rows) == ["a mug, seed 0", "a mug, seed 1", "a mug, seed 2"]


def _size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        return image.size


def test_float_alone_without_true_pictures_has_a_document(found: list[DegradationResult], tmp_path: Path) -> None:
    write_document([replace(found[0], truth=None)], tmp_path / "degradation.md", tmp_path, 2, [])
    row = next(line for line in (tmp_path / "degradation.md").read_text().splitlines() if line.startswith("| float |"))
    assert [cell.strip() for cell in row.strip("|").split("|")][4:6] == ["–", "–"]
