"""Eight subjects in one run against a run each: `python -m experiments.together.compare --work DIR`.

The same commands a person types, in stores of their own, each with the quantized base in it and nothing else: a
command for each subject, one sweep over all (`-m`, a single process), and all in one run (`subjects=[a,b]`), each
repeated in turns. Afterwards the pictures of both kinds of runs are drawn and scored. `together.md` holds the tables,
`together.json` their rows.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from experiments.bench.machine import facts
from quantbooth.evaluation.files import read_record, read_rows
from quantbooth.reporting.tables import markdown

__all__ = ["deviation", "document", "main"]

FOLDER = Path(__file__).parent
SUBJECTS = ["toy_mug", "toy_duck", "toy_fish", "toy_boot", "toy_backpack", "toy_teapot", "toy_car", "toy_house"]
WAYS = {"a command each": "alone", "one sweep": "sweep", "together": "together"}
METRICS = ["clip_t", "local_clip_i", "oracle_subject", "oracle_prompt"]
QUANTILES = {"median": 0.5, "90 % below": 0.9, "99 % below": 0.99, "largest": 1.0}
Row = dict[str, Any]


def main() -> int:
    """The program; the exit code."""
    options = _options()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    computing: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(options.turns):
        for way, store in WAYS.items():
            _fresh(options, store)
            begin, before = time.perf_counter(), _computed()
            for words in _commands(way, options.subjects):
                _run("tune", options, store, *words)
            seconds[way].append(round(time.perf_counter() - begin, 1))
            computing[way].append(round(_computed() - before, 1))
            print(f"turn {turn + 1} of {options.turns}, {way}: {seconds[way][-1]:.0f} s", flush=True)  # noqa: T201
    for way in ("a command each", "together"):
        for verb in ("sample", "evaluate"):
            _run(verb, options, WAYS[way], *_commands("one sweep", options.subjects)[0])
    stores = {way: options.work / WAYS[way] / "store" for way in ("a command each", "together")}
    result: Row = {
        "subjects": options.subjects,
        "options": options.options,
        "seconds": seconds,
        "processor_seconds": computing,
        "differences": deviation(*(store / "scale_sets" for store in stores.values())),
        "scores": {way: _scores(store / "scores") for way, store in stores.items()},
        "machine": facts(),
    }
    (options.folder / "together.json").write_text(json.dumps(result, indent=1))
    (options.folder / "together.md").write_text(document(result))
    return 0


def deviation(one: Path, other: Path) -> dict[str, float]:
    """How far learned numbers differ between runs of the same names in two folders: the median and more, absolute.

    Raises:
        ValueError: when the folders do not hold the same runs.
    """
    files = sorted(file.relative_to(one) for file in one.glob("*/step-*.safetensors"))
    if not files or files != sorted(file.relative_to(other) for file in other.glob("*/step-*.safetensors")):
        raise ValueError(f"{one} and {other} must hold the same runs")
    found = []
    for file in files:
        mine, theirs = load_file(one / file), load_file(other / file)
        found += [np.abs(mine[name] - theirs[name]).ravel() for name in mine]
    differences = np.concatenate(found)
    return {name: float(np.quantile(differences, share)) for name, share in QUANTILES.items()}


def document(result: Row) -> str:
    """The tables in Markdown."""
    rows = [
        [way, str(len(times)), *_against(result["seconds"], way), *_against(result["processor_seconds"], way)]
        for way, times in result["seconds"].items()
    ]
    scores = [[way, *(f"{means[name]:.4f}" for name in METRICS)] for way, means in result["scores"].items()]
    differences = result["differences"].items()
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items() if value is not None)
    return "\n\n".join(
        [
            f"{len(result['subjects'])} subjects, toy base, {' '.join(result['options']) or 'usual options'}",
            markdown(["tuned by", "times", "seconds", "x a command each", "processor s", "x a command each"], rows),
            markdown(["pictures of runs tuned by", *METRICS], scores),
            f"Differences of learned numbers: {', '.join(f'{name} {found:.1e}' for name, found in differences)}.",
            f"Machine: {machine}.\n",
        ]
    )


def _against(times: dict[str, list[float]], way: str) -> tuple[str, str]:
    """The median, and the median ratio to a command each of the same turn."""
    pairs = zip(times[way], times["a command each"], strict=True)
    return f"{median(times[way]):.0f}", f"{median(one / alone for one, alone in pairs):.2f}"


def _computed() -> float:
    """Processor seconds of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _commands(way: str, subjects: Sequence[str]) -> list[list[str]]:
    listed = ",".join(subjects)
    return {
        "a command each": [[f"subject={subject}"] for subject in subjects],
        "one sweep": [["-m", f"subject={listed}"]],
        "together": [[f"subjects=[{listed}]"]],
    }[way]


def _fresh(options: Namespace, store: str) -> None:
    """A store with the quantized base in it and nothing else."""
    source, place = options.work / "base", options.work / store
    if not source.exists():
        _run("calibrate", options, "base")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place)


def _run(verb: str, options: Namespace, store: str, *words: str) -> None:
    command = [sys.executable, "-m", "quantbooth.programs", verb, *words, *options.options]
    with open(options.work / "log.txt", "a") as log:
        where = [f"paths.outputs={options.work / store}"]
        subprocess.run([*command, *where], check=True, stdout=log, stderr=log, env=dict(os.environ))


def _scores(folder: Path) -> dict[str, float]:
    """Means over the tuned pictures of each subject, then over subjects."""
    found = [read_rows(place)[METRICS].mean() for place in sorted(folder.iterdir()) if read_record(place).step]
    return {name: float(np.mean([means[name] for means in found])) for name in METRICS}


def _options() -> Namespace:
    parser = ArgumentParser("experiments.together.compare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="an empty folder for the stores")
    parser.add_argument("--subjects", nargs="+", default=SUBJECTS)
    parser.add_argument("--turns", type=int, default=1, help="how often each way is timed")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the tables go")
    parser.add_argument("options", nargs="*", help="options of all commands, such as tuner.steps=200")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
