"""Made-up measurements of a degradation study with small random pictures."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from quantbooth.degradation.files import DegradationResult, Record

MakeDegradation = Callable[..., DegradationResult]


ZONES = {"clean_up": [0, 200], "content": [200, 1000]}


@pytest.fixture
def make_degradation(tmp_path: Path) -> MakeDegradation:
    """Makes degradation measurements: `added` to each of 20 float errors a zone, 10 pictures that differ by it."""

    def build(quant: str = "w4", added: float = 0.1, **given: Any) -> DegradationResult:
        bits = None if quant == "fp" else int(quant[1])
        added = added if bits else 0.0
        record = Record(
            base="toy",
            zones=ZONES,
            quant=quant,
            bits=bits,
            calibration="mse" if bits else "",
            options={"lp_norm": 2.4} if bits else {},
            layers=117 if bits else 0,
            left_float=["conv_in", "conv_out"] if bits else ["conv_in", "conv_out", "mid"],
            file_bytes=1_000_000 * (bits or 32),
            held_out="20 captions",
            seed=2,
            sampler="ddim, 25 steps, guidance 4",
            scorer="toy scorer | toy oracle",
            reference="f" * 64,
            source=f"toy-{quant}" if bits else "float base",
        )
        record = replace(record, **{name: value for name, value in given.items() if bits})
        run = f"damage-{quant}-{zlib.crc32(repr(record).encode()):x}"
        for name in ("pictures", "truth"):
            _noise(tmp_path / run / name)
        pictures = pd.DataFrame([_picture(place, added) for place in range(10)])
        errors = pd.DataFrame([_error(zone, place, added) for zone in ZONES for place in range(20)])
        return DegradationResult(record, run, tmp_path / run, errors, pictures, None if bits else pictures)

    return build


def _picture(place: int, added: float) -> dict[str, object]:
    score = {"clip_t": 0.8 - added - place / 100, "ssim": 1 - added * (1 + place / 10), "mse": added / 10 * (1 + place)}
    asked = {"right_class_word": 1.0, "right_colour": float(place % 2) if place < 6 else float("nan")}
    return {"file": f"{place}.png", "text": f"a mug number {place}", "noise_seed": place} | score | asked


def _error(zone: str, place: int, added: float) -> dict[str, object]:
    own = (0.2 if zone == "clean_up" else 0.05) * (1 + place / 20)
    about = {"zone": zone, "place": place, "t": 10 * place, "text": f"a mug number {place}"}
    return about | {"float_error": own, "error": own * (1 + added), "deviation": own * added / 2}


def _noise(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(10):
        rng = np.random.default_rng(place)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{place}.png")
