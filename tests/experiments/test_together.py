"""The comparison of runs together and apart: what differs is found, and the table says what the rows say."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from experiments.together.compare import deviation, document

RESULT = {
    "subjects": ["toy_mug", "toy_duck"],
    "options": ["tuner.steps=200"],
    "seconds": {"a command each": [100.0, 200.0, 120.0], "one sweep": [90.0, 100.0, 90.0], "together": [50, 60, 70]},
    "processor_seconds": {"a command each": [10.0, 20.0, 10.0], "one sweep": [8, 12, 8], "together": [5, 5, 5]},
    "differences": {"median": 3.25e-6, "largest": 0.5},
    "scores": {
        "together": {"clip_t": 0.5, "local_clip_i": 0.25, "oracle_subject": 0.125, "oracle_prompt": 1.0},
    },
    "machine": {"cores": 2, "gpu": None},
}


def test_ratios_are_those_of_the_same_turn() -> None:
    text = document(RESULT)
    assert "| a command each | 3 | 120 | 1.00 | 10 | 1.00 |" in text
    assert "| one sweep | 3 | 90 | 0.75 | 8 | 0.80 |" in text
    assert "| together | 3 | 60 | 0.50 | 5 | 0.50 |" in text
    assert "| together | 0.5000 | 0.2500 | 0.1250 | 1.0000 |" in text
    assert "Differences of learned numbers: median 3.2e-06, largest 5.0e-01." in text
    assert "Machine: cores 2.\n" in text


def test_the_largest_difference_is_found_and_other_runs_are_refused(tmp_path: Path) -> None:
    for place, value in (("one", 1.0), ("other", 1.5)):
        for step in (1, 2):
            file = tmp_path / place / "run" / f"step-{step}.safetensors"
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"a": torch.tensor([1.0, value if step == 2 else 1.0]), "b": torch.zeros(1)}, file)
    found = deviation(tmp_path / "one", tmp_path / "other")
    assert (found["median"], found["largest"]) == (0.0, 0.5)  # of six numbers one differs
    assert found["90 % below"] == pytest.approx(0.25)
    (tmp_path / "other" / "run" / "step-2.safetensors").unlink()
    with pytest.raises(ValueError, match="must hold the same runs"):
        deviation(tmp_path / "one", tmp_path / "other")
    with pytest.raises(ValueError, match="must hold the same runs"):
        deviation(tmp_path / "none", tmp_path / "other")
