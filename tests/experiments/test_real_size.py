"""The chain at true size: the same program on the smallest base of that structure."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.real_size import run
from experiments.real_size.run import document, planned, timed


def test_time_and_memory_of_a_command_are_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    hold = "import time; x = bytearray(400_000_000); print('said'); time.sleep(0.5)"
    large = timed([sys.executable, "-c", hold], log)
    small = timed([sys.executable, "-c", "raise SystemExit(3)"], log)
    assert (large["code"], small["code"]) == (0, 3)
    assert 0.4 < large["peak_gb"] < 0.5
    assert small["peak_gb"] < 0.1
    assert log.read_text() == "said\n"


def test_the_table_leaves_out_what_failed() -> None:
    commands = {
        "tune": {"code": 0, "seconds": 61.4, "peak_gb": 2.345},
        "sample": {"code": 2, "seconds": 1.0, "peak_gb": 1.0},
    }
    about = {"model": "sd15", "subject": "dog", "options": ["a=1"], "machine": {"cores": 2, "gpu": None}}
    text = document({"commands": commands, **about})
    assert "sd15, random weights, photos of dog: `a=1`" in text
    assert "| tune | 61 | 2.3 |" in text
    assert "sample" not in text


def test_what_a_plan_counts_has_a_column_of_its_own() -> None:
    stages = ["encoding      3.50 GB  ", "tuning        2.62 GB  denoiser 1.20 GB", "scoring       925 MB  x"]
    said = "\n  ".join(["sd15 s2 w4", *stages]) + "\npeak: 3 GB"
    assert planned(said) == {"tune": 3.5, "tune, its step": 2.62, "evaluate": 0.925}
    commands = {name: {"code": 0, "seconds": 1.0, "peak_gb": 3.0} for name in ("clip", "tune")}
    about = {"model": "sd15", "subject": "dog", "options": [], "machine": {}}
    text = document({"commands": commands, "planned": planned(said), **about})
    assert [line for line in text.splitlines() if line.startswith(("| clip", "| tune"))] == [
        "| clip | 1 | 3.0 | - |",
        "| tune | 1 | 3.0 | 3.5 |",
    ]


@pytest.mark.slow
def test_the_whole_chain_of_the_smallest_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos" / "dog"
    photos.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(draw.integers(0, 255, (90, 70, 3), dtype=np.uint8)).save(photos / f"{number}.jpg")
    words = ["run", "--model", "tiny", "--work", str(tmp_path / "work"), "--photos", str(photos.parent), "--export"]
    monkeypatch.setattr(sys, "argv", [*words, "--folder", str(tmp_path)])
    assert run.main() == 0
    table = (tmp_path / "tiny.md").read_text()
    assert [line.split()[1] for line in table.splitlines() if line.startswith("| ")][2:] == [
        *("random_base", "clip", "calibrate", "tune", "sample", "evaluate", "export", "plain")
    ]
    assert "largest difference of a pixel: " in (tmp_path / "work" / "log.txt").read_text()
