"""Run a long sweep, kill it every few minutes, start it again until it ends; then look what was lost or done twice.

    python -m experiments.reliability.long_sweep --work DIR --minutes 60 --result long_sweep.json

The first hour is killed, the rest runs undisturbed. Stopped and started again it goes on. The counts are

    redone  = finished artifacts whose manifest changed after a kill
    differ  = files of some jobs, run once more alone in a store of their own, that are not the same
    growth  = what a life needs in its last third of samples, less what it needs in its second (medians); lives shorter
              than ten minutes are mostly imports and the first jobs, so their growth says nothing
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from experiments.reliability.kills import contents
from experiments.reliability.record import write_counts

__all__ = ["Life", "growth", "jobs", "main"]

SUBJECTS = ("toy_car2", "toy_house2", "toy_mug", "toy_duck", "toy_fish", "toy_boot", "toy_teapot", "toy_backpack")
STRATEGIES = ("baseline", "s1", "s2", "tas")
SHORT = (
    *("tuner.steps=100", "preview.validation_steps=0", "protocol.prompt_stride=5", "sampler.steps=10"),
    *("resources.checkpoint_every=5", "prior.num_class_images=20"),
)
PAUSE = (100.0, 240.0)
"""Seconds after which a life ends, drawn between these."""
EVERY = 5.0
"""Seconds between samples of memory and handles."""
COMPARED = 6
"""Jobs that are run once more alone."""


@dataclass
class Life:
    """One start of the sweep: how it ended, its seconds, and what it needed over time."""

    code: int
    seconds: float
    memory_mb: list[float] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)


def jobs(count: int) -> list[tuple[str, ...]]:
    """Return the options of the sweep's jobs, in its order: strategies fastest, then subjects, then seeds."""
    per_seed = len(SUBJECTS) * len(STRATEGIES)
    made: list[tuple[str, ...]] = []
    for number in range(count):
        subject, strategy = SUBJECTS[number % per_seed // len(STRATEGIES)], STRATEGIES[number % len(STRATEGIES)]
        made.append((f"seed={number // per_seed}", f"subject={subject}", f"strategy={strategy}"))
    return made


def growth(samples: list[float] | list[int]) -> float:
    """Return the median of the last third of samples less the median of the second; 0 for less than nine."""
    third = len(samples) // 3
    if third < 3:
        return 0.0
    return round(statistics.median(samples[-third:]) - statistics.median(samples[third : 2 * third]), 1)


def sweep_words(seeds: int) -> list[str]:
    """Return the words of the sweep's command."""
    seeds_given = ",".join(map(str, range(seeds)))
    return ["-m", f"seed={seeds_given}", f"subject={','.join(SUBJECTS)}", f"strategy={','.join(STRATEGIES)}", *SHORT]


def live(words: list[str], work: Path, limit: float) -> Life:
    """Run the sweep until it ends, or kill it after `limit` seconds."""
    began, life = time.monotonic(), Life(0, 0.0)
    with (work / "said.txt").open("w") as said:
        process = psutil.Popen([sys.executable, "-m", "quantbooth", *words], stdout=said, stderr=said)
        while (code := process.poll()) is None:
            if time.monotonic() - began > limit:
                process.kill()
                code = process.wait()
                break
            try:
                life.memory_mb.append(round(process.memory_info().rss / 2**20, 1))
                life.handles.append(process.num_fds())
                life.threads.append(process.num_threads())
            except psutil.Error:
                continue
            time.sleep(EVERY)
    life.code, life.seconds = int(code), round(time.monotonic() - began, 1)
    return life


def finished(store: Path) -> dict[str, int]:
    """Return the finished artifacts of a store, and when each manifest was written."""
    return {
        file.parent.relative_to(store).as_posix(): file.stat().st_mtime_ns
        for file in store.glob("*/[!.]*/manifest.json")
    }


def _differing(work: Path, seeds: int, store: Path) -> tuple[int, list[str]]:
    """Run some jobs alone in another store; return the number of files compared, and those that differ."""
    alone = work / "alone"
    chosen = random.Random(0).sample(jobs(seeds * len(SUBJECTS) * len(STRATEGIES)), COMPARED)
    for job in chosen:
        words = [*job, *SHORT, f"paths.outputs={alone}"]
        subprocess.run([sys.executable, "-m", "quantbooth", *words], check=True, capture_output=True)
    mine, others = contents(alone / "store"), contents(store)
    compared = {name: digest for name, digest in mine.items() if not name.endswith("config.yaml")}  # with paths in it
    return len(compared), sorted(name for name, digest in compared.items() if others.get(name) != digest)


def main() -> int:
    """Live until the sweep ends; write the counts; return 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60, help="minutes in which it is killed")
    parser.add_argument("--seeds", type=int, default=8, help=f"{len(SUBJECTS) * len(STRATEGIES)} jobs each")
    parser.add_argument("--result", type=Path)
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    kept, store = work / "lives.json", work / "out" / "store"
    state: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"lives": [], "redone": []}
    words = [*sweep_words(options.seeds), f"paths.outputs={work / 'out'}"]
    draw = random.Random(len(state["lives"]))
    while not state["lives"] or state["lives"][-1]["code"] == -9:
        before = finished(store)
        lived = sum(one["seconds"] for one in state["lives"])
        life = live(words, work, draw.uniform(*PAUSE) if lived < 60 * options.minutes else float("inf"))
        after = finished(store)
        state["redone"] += [name for name, written in before.items() if after.get(name) != written]
        state["lives"].append(asdict(life))
        kept.write_text(json.dumps(state))
        sys.stdout.write(
            f"life {len(state['lives'])}: {life.seconds} s, exit code {life.code}, {len(after)} artifacts\n"
        )
        sys.stdout.flush()
    result = summary(state, work, options.seeds, store)
    write_counts(options.result, result)
    return int(bool(result["code"] or result["missing"] or result["redone"] or result["differ"] or result["faults"]))


def summary(state: dict[str, Any], work: Path, seeds: int, store: Path) -> dict[str, Any]:
    """Return the counts of a sweep that ended."""
    lives = state["lives"]
    wanted = seeds * len(SUBJECTS) * len(STRATEGIES)
    verified = subprocess.run(
        [sys.executable, "-m", "quantbooth.commands.verify", str(store)], check=False, capture_output=True
    )
    compared, differ = _differing(work, seeds, store)
    return {
        "jobs": wanted,
        "kills": sum(life["code"] == -9 for life in lives),
        "hours": round(sum(life["seconds"] for life in lives) / 3600, 2),
        "code": lives[-1]["code"],
        "missing": wanted + len(SUBJECTS) - len(list(store.glob("scores/[!.]*/manifest.json"))),  # an untuned one each
        "redone": state["redone"],
        "faults": verified.returncode,
        "compared": compared,
        "differ": differ,
        "longest_life_minutes": round(max(life["seconds"] for life in lives) / 60, 1),
        **{f"{name}_growth": [growth(life[name]) for life in lives] for name in ("memory_mb", "handles", "threads")},
    }


if __name__ == "__main__":
    sys.exit(main())
