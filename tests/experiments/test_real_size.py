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


def test_memory_of_a_card_is_the_most_that_was_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, tool = tmp_path / "count", tmp_path / "nvidia-smi"
    said = f"#!{sys.executable}\nimport pathlib\nfile = pathlib.Path({str(count)!r})\n"
    said += "seen = len(file.read_text()) if file.exists() else 0\nfile.write_text('x' * (seen + 1))\n"
    tool.write_text(said + "print([1000, 4000][seen % 2])\nprint(0)\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    hold = [sys.executable, "-c", f"import os, time\nwhile os.path.getsize({str(count)!r}) < 2: time.sleep(.01)"]
    count.write_text("")
    row = timed(hold, tmp_path / "log.txt", "cuda")
    assert (row["code"], row["card_gb"]) == (0, 4.19)
    text = document({"commands": {"tune": row}, "model": "sd15", "subject": "dog", "options": [], "machine": {}})
    assert text.count("| 4.2 |") == 1


def test_a_card_has_files_and_a_table_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or rows of the CPU would stay in its table, as those of work that is done."""
    typed: list[list[str]] = []

    def noted(command: list[str], _: Path, device: str) -> dict[str, float]:
        typed.append(command)
        return {"code": 0, "seconds": 1.0, "peak_gb": 1.0} | ({"card_gb": 2.0} if device == "cuda" else {})

    monkeypatch.setattr(run, "timed", noted)
    for device in ("cpu", "cuda"):
        words = ["--model", "tiny", "--work", f"{tmp_path}/work", "--photos", "photos", "--verbs", "tune"]
        monkeypatch.setattr(sys, "argv", ["run", *words, "--device", device, "--folder", str(tmp_path)])
        assert run.main() == 0
    tables = [(tmp_path / f"{name}.md").read_text() for name in ("tiny", "tiny-cuda")]
    assert ["2.0" in one for one in tables] == ["trainer=gpu" in one for one in tables] == [False, True]
    places = [next(word for word in one if "outputs" in word) for one in typed if "tune" in one]
    assert places[0] != places[1]


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
