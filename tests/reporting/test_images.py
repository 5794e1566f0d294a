"""Grids and sheets: same prompt and noise down a column, every kind shown, crisp enlargement, gaps left visible."""

import base64
import dataclasses
import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from quantbooth.reporting.embed import AS_THEY_ARE, embedded, encoding_for
from quantbooth.reporting.images import EMPTY, choose_prompts, contact_sheet, grid, grid_sheet, stacked
from quantbooth.reporting.page import About, write_report
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study
from quantbooth.runtime.errors import UserError

Make = Callable[..., Result]


def test_a_selection_of_prompts_covers_every_kind() -> None:
    kinds = ["context"] * 10 + ["accessory"] * 6 + ["property"] * 7 + ["plain"] * 2
    frame = pd.DataFrame({"prompt": [f"{kind} {k}" for k, kind in enumerate(kinds)], "kind": kinds})
    chosen = choose_prompts(frame, 8)
    assert [prompt.split()[0] for prompt in chosen] == [k for k in dict.fromkeys(kinds) for _ in range(2)]
    assert {prompt.split()[0] for prompt in choose_prompts(frame, 4)} == set(kinds)
    assert choose_prompts(frame, 99) == list(frame["prompt"])


def test_a_column_is_one_prompt_from_one_noise(four: Study) -> None:
    found = grid(four, "toy_mug", 4)
    assert [row.label for row in found.rows] == ["untuned base", "float", "baseline", "s1", "s2"]
    assert len(found.photos) == 3 and len(found.prompts) == 4
    by_run = {result.images: result for result in four.results}
    for row in found.rows:
        for prompt, file in zip(found.prompts, row.files, strict=True):
            assert file is not None
            rows = by_run[file.parent].rows
            named = rows[rows["file"] == file.name].iloc[0]
            assert (named["prompt"], named["noise_seed"]) == (prompt, found.noise_seed)


def test_the_lowest_noise_seed_and_tuning_seed_are_shown(make: Make) -> None:
    results = []
    for seed in (1, 0):
        result = make("s1", seed=seed)
        other = result.rows.assign(noise_seed=7, file="4.png")
        results.append(dataclasses.replace(result, rows=pd.concat([other, result.rows])))
    found = grid(Study(tuple(results)), "toy_mug")
    assert (found.noise_seed, found.seed) == (0, 0)
    (row,) = found.rows
    assert [file and file.name for file in row.files] == [f"{k}.png" for k in range(5)]
    assert {file and file.parent for file in row.files} == {results[1].images}


def test_a_method_without_the_subject_leaves_gaps(make: Make) -> None:
    study = Study((make("s1", "mug"), make("s1", "duck"), make("s2", "mug")))
    rows = {row.label: row for row in grid(study, "duck").rows}
    assert set(rows["s2"].files) == {None} and None not in rows["s1"].files
    with pytest.raises(UserError, match=r"\(mug, duck\), got 'car'"):
        grid(study, "car")


def test_a_picture_that_is_gone_or_broken_is_refused(make: Make) -> None:
    result = make("s1")
    (result.images / "0.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"cannot read the picture .*0\.png: it is no JPEG"):
        embedded(result.images / "0.png")
    (result.images / "0.png").unlink()
    with pytest.raises(UserError, match=r"picture 0\.png of scores-s1-toy_mug-0-400 is gone"):
        grid(Study((result,)), "toy_mug")
    with pytest.raises(UserError, match="photos of toy_mug must .* nowhere"):
        grid(Study((dataclasses.replace(result, references=result.images / "nowhere"),)), "toy_mug")
    assert grid(Study((dataclasses.replace(make("s2"), references=None),)), "toy_mug").photos == ()


def test_a_png_is_embedded_byte_for_byte_and_shown_three_times_as_large(make: Make) -> None:
    file = make("s1").images / "0.png"
    found = embedded(file)
    assert base64.b64decode(found.uri.removeprefix("data:image/png;base64,")) == file.read_bytes()
    assert (found.width, found.height, found.crisp) == (96, 96, True)


def test_a_photo_keeps_its_own_size_and_is_shown_smooth(tmp_path: Path) -> None:
    Image.new("RGB", (512, 256), "red").save(tmp_path / "photo.jpg")
    found = embedded(tmp_path / "photo.jpg")
    assert (found.width, found.height, found.crisp) == (192, 96, False)
    with Image.open(io.BytesIO(base64.b64decode(found.uri.partition(",")[2]))) as image:
        assert image.size == (512, 256) and image.format == "JPEG"
    assert found.uri.startswith("data:image/jpeg;base64,")


def _noise(file: Path, side: int) -> Path:
    pixels = np.random.default_rng(zlib.crc32(file.name.encode())).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def test_pictures_that_fit_stay_as_they_are_and_many_become_light_enough(tmp_path: Path) -> None:
    files = [_noise(tmp_path / f"{k}.png", 256) for k in range(6)]
    whole = sum(file.stat().st_size for file in files)
    assert encoding_for(files, budget=2 * whole) == AS_THEY_ARE
    for budget in (whole, whole // 4, whole // 16):
        encoding = encoding_for(files, budget)
        found = [embedded(file, encoding) for file in files]
        assert sum(len(one.uri) for one in found) <= 1.05 * budget + 30 * len(files)
        assert all(one.uri.startswith("data:image/webp;base64,") for one in found)
        assert {(one.width, one.height, one.crisp) for one in found} == {(192, 192, False)}
    assert encoding.side is not None and encoding.side < 256
    with Image.open(io.BytesIO(base64.b64decode(found[0].uri.partition(",")[2]))) as image:
        assert max(image.size) == encoding.side


@pytest.mark.chain
def test_a_page_says_so_where_its_pictures_are_not_those_judged(tmp_path: Path, make: Make) -> None:
    results = [make("s1"), make("s2")]
    for result in results:
        for file in result.files.values():
            _noise(file, 900)
    text = write_report(Study(tuple(results)), tmp_path / "report", About())[0].read_text(encoding="utf-8")
    assert "pictures are compressed" in text and len(text) < 15_000_000
    assert "pictures are compressed" not in write_report(Study((make("tas"),)), tmp_path / "few", About())[0].read_text(
        "utf-8"
    )


def test_a_sheet_enlarges_pixel_by_pixel_and_leaves_gaps_grey() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    sheet = np.asarray(contact_sheet({"s1": [Image.fromarray(pixels), None]}, cell=96))
    enlarged = pixels.repeat(3, axis=0).repeat(3, axis=1)
    at = np.argwhere((sheet[:, :, None] == enlarged[0, 0]).all(axis=(2, 3)))
    assert any((sheet[y : y + 96, x : x + 96] == enlarged).all() for y, x in at if x + 96 <= sheet.shape[1])
    grey = np.array([int(EMPTY[k : k + 2], 16) for k in (1, 3, 5)])
    assert (sheet == grey).all(axis=2).sum() == 96 * 96
    with pytest.raises(UserError, match="at least one picture"):
        contact_sheet({})


def test_sheets_of_a_study_stack_and_are_the_same_twice(four: Study) -> None:
    found = grid(four, "toy_mug")
    one = grid_sheet(found, title="toy_mug")
    assert np.array_equal(np.asarray(one), np.asarray(grid_sheet(found, title="toy_mug")))
    assert stacked([one, one]).size == (one.width, 2 * one.height)
    without = grid_sheet(dataclasses.replace(found, photos=()))
    assert without.height < one.height
