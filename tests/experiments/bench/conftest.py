"""A tiny setting, and rows as a run would leave them."""

from collections.abc import Callable
from typing import Any

import pytest

from experiments.bench.cases import Case, Setting
from experiments.bench.results import Row, row_of


@pytest.fixture
def tiny() -> Setting:
    return Setting("tiny", 8, False)


@pytest.fixture
def row_with() -> Callable[..., Row]:
    """Makes the row of a case whose steps took some seconds, taken in turns with a reference."""

    def make(case: Case, seconds: list[float], beside: list[float], **figures: Any) -> Row:
        built = {"import_rss_gb": 0.5, "build_rss_gb": 1.0, "trainable": 7, "file_mb": 1.0, "base_file_mb": 250.0}
        steps = [
            {"forward": 0.25 * s, "backward": 0.5 * s, "optimizer": 0.25 * s, "peak_rss_gb": 2.0, "cuda_peak_gb": None}
            for s in seconds
        ]
        row = row_of(case, built, steps, {"kept_gb": 0.25}, warm_up=0)
        return {**row, "reference_steps_s": beside, "commit": "abc", "machine": {"cpu": "x"}, **figures}

    return make
