"""The cost of learned rounding: a row tells a whole run, also one that was stopped between blocks."""

import json
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from experiments.calibration import cost
from experiments.calibration.cost_table import COLUMNS, document, published_hours
from experiments.calibration.rss import Anonymous
from quantbooth.calibration.adaround import BlockResult
from quantbooth.runtime.errors import UserError

pytestmark = pytest.mark.chain


def options(work: Path, **changed: object) -> Namespace:
    arguments = ["--model", "tiny", "--latents", "8", "--items", "4", "--batch", "2", "--iterations", "2"]
    return Namespace(**vars(cost.parsed(arguments)) | {"work": work} | changed)


def test_a_stopped_run_goes_on_and_tells_of_all_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, note, seen = tmp_path / "work", cost._Watch.note, []

    def stopping(self: cost._Watch, number: int, outcome: BlockResult) -> None:
        note(self, number, outcome)
        seen.append(number)
        if len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(cost._Watch, "note", stopping)
    with pytest.raises(KeyboardInterrupt):
        cost.row_of(options(work))
    first = json.loads((work / "seconds.json").read_text())
    assert list(first) == ["0", "1", "2"]
    row = cost.row_of(options(work))
    parts = json.loads((work / "seconds.json").read_text())
    assert {number: parts[number] for number in first} == first
    assert len(parts) == row["units"]
    for key in ("taping_s", "search_s", "learning_s"):
        assert row[key] == sum(part[key] for part in parts.values())
        assert min(part[key] for part in parts.values()) > 0
    assert row["peak_gb"] >= row["import_gb"] > 0
    assert row["peak_gb"] > row["anonymous_gb"] == max(part["anonymous_gb"] for part in parts.values()) > 0
    assert row["weights"] == 201_924
    with pytest.raises(UserError, match="belongs to another case"):
        cost.row_of(options(work, iterations=3))


def test_items_come_in_pairs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"even number >= 2 .* got 5"):
        cost.row_of(options(tmp_path, items=5))


def test_the_published_budget_is_iterations_and_items() -> None:
    case = {"model": "sd15", "latents": 32, "items": 8, "batch": 8, "iterations": 10}
    figures = {
        "peak_gb": 5.0,
        "anonymous_gb": 4.5,
        "import_gb": 1.0,
        "float_gb": 3.0,
        "largest_gb": 0.25,
        "weights": 10**6,
        "units": 2,
    }
    row = {"case": case, "learning_s": 36.0, "taping_s": 4.5, "search_s": 7.0, **figures}
    assert published_hours(row) == (36 / 10 * 20_000 + 4.5 / 8 * 6400 + 7) / 3600
    head, _, line = document([row]).splitlines()
    cells = dict(zip(COLUMNS, (cell.strip() for cell in line.strip("|").split("|")), strict=True))
    assert head.count("|") == len(COLUMNS) + 1
    assert cells["rest, x largest block"] == "4.0"
    assert cells["ms per block and item"] == "281.25"
    assert cells["ms per block and iteration"] == "1800.0"
    assert cells["published budget, hours"] == "21.0"


def test_memory_without_mapped_files_is_seen_also_where_it_lasts_a_moment() -> None:
    size = 200_000_000
    with Anonymous() as anonymous:
        anonymous.reset()
        before = anonymous.peak
        held = torch.ones(size // 4)
        time.sleep(0.2)
        del held
        time.sleep(0.1)
        assert anonymous.peak >= before + 0.9 * size
        anonymous.reset()
        assert anonymous.peak < before + size / 2
