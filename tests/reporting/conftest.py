"""Made-up results and degradation measurements with small random pictures: builders that reporting tests share."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from quantbooth.commands.report import method_styles
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study
from quantbooth.reporting.style import Style

PROMPTS = (
    ("a sks mug on the beach", "context"),
    ("a sks mug in the snow", "context"),
    ("a sks mug wearing a red hat", "accessory"),
    ("a red sks mug", "property"),
    ("a sks mug", "plain"),
)
COSTS = {
    "samples_seen": 1600,
    "samples_per_expert": 1600,
    "trainable": 5632,
    "peak_memory_bytes": 655e6,
    "seconds": 61.0,
    "file_bytes": 24_100,
    "base_file_bytes": 1_310_000,
}

Make = Callable[..., Result]


def maker(folder: Path) -> Make:
    """Makes results; scores are the same for every image unless given as a list (one per prompt)."""

    def build(method: str = "s1", subject: str = "toy_mug", step: int = 400, seed: int = 0, **given: Any) -> Result:
        name = f"{method}-{subject}-{seed}-{step}"
        images, references = folder / name, folder / f"{subject}-photos"
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        rows = pd.DataFrame(PROMPTS, columns=["prompt", "kind"])
        rows["noise_seed"] = 0
        rows["file"] = [f"{k}.png" for k in range(len(PROMPTS))]
        scores = {"clip_t": 0.3, "clip_i": 0.6, "local_clip_i": 0.7, "subject_found": 1}
        scores |= {"oracle_subject": 0.5, "oracle_prompt": 0.8, "oracle_class": 0.9}
        for key, value in (scores | {k: v for k, v in given.items() if k in scores}).items():
            rows[key] = value
        rows.loc[rows["kind"] == "plain", "oracle_prompt"] = np.nan
        for pictures, count in ((images, len(PROMPTS)), (references, 3)):
            pictures.mkdir(exist_ok=True)
            for k in range(count):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(pictures / f"{k}.png")
        setting = {
            "quant": "fp" if method == "float" else "w4",
            "base": "toy",
            "scorer": "toy / toy / oracle",
            "rows": rows,
            "costs": {} if step == 0 else COSTS,
            "images": images,
            "references": references,
            "run": f"scores-{name}",
            "protocol": "quick",
        } | {k: v for k, v in given.items() if k not in scores}
        return Result(method=method, subject=subject, step=step, seed=seed, **setting)

    return build


def base_and_four(make: Make) -> list[Result]:
    """Base, float, baseline and two strategies on one subject, in no order."""
    return [
        make("s2", clip_t=0.281, local_clip_i=0.752),
        make("base", step=0, clip_t=0.310, local_clip_i=0.600),
        make("s1", step=200, clip_t=0.300, local_clip_i=0.650),
        make("s1", clip_t=0.291, local_clip_i=0.731),
        make("float", clip_t=0.270, local_clip_i=0.801, oracle_subject=0.9),
        make("baseline", clip_t=0.261, local_clip_i=0.752),
    ]


@pytest.fixture(scope="session")
def styles() -> dict[str, Style]:
    """How conf/method shows each method."""
    return method_styles()


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return maker(tmp_path)


@pytest.fixture(scope="module")
def module_make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The same for a module, whose results stay."""
    return maker(tmp_path_factory.mktemp("results"))


@pytest.fixture
def four(make: Make, styles: dict[str, Style]) -> Study:
    return Study(tuple(base_and_four(make)), styles)


@pytest.fixture(scope="module")
def kept_four(module_make: Make, styles: dict[str, Style]) -> Study:
    """The same for all tests of a module, which must leave it as it is."""
    return Study(tuple(base_and_four(module_make)), styles)
