"""A made-up sweep of any size for trying the report: scores by rule and chance, small pictures drawn by a formula."""

import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from quantbooth.reporting.results import Result
from quantbooth.timesteps.strategies import Strategy, baseline, s1, s2, tas

__all__ = ["sweep"]

STRATEGIES: dict[str, tuple[Strategy, float, float]] = {
    "baseline": (baseline(1000), -0.06, 0.16),
    "s1": (s1([200, 750], "base", 1000), -0.02, 0.12),
    "s2": (s2({"clean_up": [0, 200], "content": [200, 750], "coarse": [750, 1000]}, False, 1000), -0.05, 0.18),
    "tas": (tas(4, 1000), -0.05, 0.15),
}
"""By name: the strategy, and what it changes CLIP-T and local CLIP-I by."""
KINDS = ("context", "accessory", "property", "plain")
STEPS = (100, 200, 400)


def sweep(folder: Path, subjects: int = 8, prompts: int = 25, noises: int = 4, side: int = 64) -> list[Result]:
    """The base and four strategies on so many subjects, each judged at three steps; pictures of `side` pixels."""
    results = []
    for subject in (f"subject {k + 1}" for k in range(subjects)):
        photos = folder / subject / "photos"
        _pictures(photos, [f"{k}.png" for k in range(4)], side)
        results.append(_result(folder, "base", subject, 0, (prompts, noises, side), photos))
        for method in STRATEGIES:
            results += [_result(folder, method, subject, s, (prompts, noises, side), photos) for s in STEPS]
    return results


def _result(folder: Path, method: str, subject: str, step: int, size: tuple[int, int, int], photos: Path) -> Result:
    prompts, noises, side = size
    rng = np.random.default_rng(zlib.crc32(f"{method} {subject} {step}".encode()))
    ease = zlib.crc32(subject.encode()) % 100 / 1000
    rows = pd.DataFrame(
        [
            {"prompt": f"a photo of a sks thing in place number {k}", "kind": KINDS[k % 4], "noise_seed": noise}
            for k in range(prompts)
            for noise in range(noises)
        ]
    )
    rows["file"] = [f"{k:04d}.png" for k in range(len(rows))]
    strategy, prompt, likeness = STRATEGIES.get(method, (None, 0.0, 0.0))
    share = step / STEPS[-1]
    for key, height, change in (("clip_t", 0.3, prompt), ("local_clip_i", 0.6, likeness), ("clip_i", 0.5, likeness)):
        rows[key] = height + ease + change * share + rng.normal(0, 0.05, len(rows)) + rng.normal(0, 0.01)
    rows["subject_found"] = (rng.random(len(rows)) < 0.9).astype(int)
    pictures = folder / subject / f"{method}-{step}"
    shown = rows["file"][rows["noise_seed"] == 0] if step in (0, STEPS[-1]) else []
    _pictures(pictures, list(shown), side)
    costs = {"samples_seen": 1600.0, "trainable": 5632.0 * (strategy.sets if strategy else 1), "seconds": 60.0}
    costs |= {"peak_memory_bytes": 6.5e8, "file_bytes": 24_100.0, "base_file_bytes": 1.31e6}
    return Result(
        method=method,
        subject=subject,
        quant="w4",
        seed=0,
        step=step,
        base="made up",
        scorer="made up",
        rows=rows,
        costs=costs if step else {},
        images=pictures,
        references=photos,
        run=f"{method}-{subject}".replace(" ", "-"),
        protocol=f"{prompts} prompts, {noises} seeds",
        strategy=strategy,
    )


def _pictures(folder: Path, names: list[str], side: int) -> None:
    """Coloured waves under some noise: no two alike, and as hard to compress as photos."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:side, 0:side] / side
    for name in names:
        rng = np.random.default_rng(zlib.crc32(f"{folder.parent.name} {folder.name} {name}".encode()))
        turns = rng.uniform(1, 9, (3, 2))
        waves = [np.sin(a * x * 6 + b * y * 6 + k) for k, (a, b) in enumerate(turns)]
        pixels = np.stack(waves, axis=-1) * 90 + 128 + rng.normal(0, 8, (side, side, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
