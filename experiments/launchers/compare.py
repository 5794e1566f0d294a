"""The same sweep under several launchers of Hydra: `python -m experiments.launchers.compare --work DIR`.

Two sweeps that a person types, each from an empty store: the interval sweep of the README, and eight subjects by three
strategies, whose time under two workers is compared with one. Tables must be the same to the byte, measured seconds and
memory aside. Every worker computes by one thread. `table.md` holds the tables, `results.json` their rows; a stopped
program goes on with the sweeps that are left.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.bench.machine import facts
from quantbooth.reporting.tables import markdown

__all__ = ["document", "main"]

FOLDER = Path(__file__).parent
LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=60"],
    "ray": ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"],
}
SUBJECTS = "toy_mug,toy_duck,toy_fish,toy_boot,toy_backpack,toy_teapot,toy_car,toy_house"
SWEEPS = {
    "intervals": ["-m", "strategy=s1", "strategy.interval=[0,200],[200,750],[750,1000]"],
    "subjects": ["-m", f"subject={SUBJECTS}", "strategy=baseline,s1,s2"],
}
NAMES = {"intervals": "the README's three intervals", "subjects": "8 subjects x 3 strategies"}
MEASURED = ["seconds", "peak_memory_bytes"]
PARTS = {"table.csv": "table", "index.html": "page", "interval_map.svg": "map"}
Row = dict[str, Any]


def main() -> int:
    """The program; the exit code."""
    options = _options()
    file = options.folder / "results.json"
    result: Row = json.loads(file.read_text()) if file.exists() else {"sweeps": {}}
    result |= {"options": options.options, "machine": facts()}
    for sweep in options.sweeps:
        for launcher in options.launchers:
            if (name := f"{sweep} {launcher}") not in result["sweeps"]:
                print(f"{name} ...", flush=True)  # noqa: T201
                result["sweeps"][name] = _swept(options, sweep, launcher)
                file.write_text(json.dumps(result, indent=1))
                (options.folder / "table.md").write_text(document(result))
    return 0


def document(result: Row) -> str:
    """The tables in Markdown."""
    rows = []
    for name, row in result["sweeps"].items():
        sweep, launcher = name.split()
        basic = result["sweeps"].get(f"{sweep} basic")
        against = f"{row['seconds'] / basic['seconds']:.2f}" if basic else "–"
        same = "–" if launcher == "basic" or not basic else "yes" if row["digest"] == basic["digest"] else "no"
        rows.append([NAMES[sweep], launcher, f"{row['seconds']:.0f}", against, same, ", ".join(row["parts"])])
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items() if value is not None)
    heads = ["sweep", "launcher", "seconds", "x basic", "same bytes", "report has"]
    about = f"Toy base, {' '.join(result['options']) or 'usual options'}; two workers, one thread each; basic has one."
    return "\n\n".join([about, markdown(heads, rows), f"Machine: {machine}.\n"])


def _swept(options: Namespace, sweep: str, launcher: str) -> Row:
    """Run one sweep from an empty store; return its seconds, the digest of its table, and the report's parts."""
    place = options.work / f"{sweep}-{launcher}"
    words = [*SWEEPS[sweep], *LAUNCHERS[launcher], *options.options, f"paths.outputs={place}"]
    begin = time.perf_counter()
    with open(options.work / "log.txt", "a") as log:
        command = [sys.executable, "-m", "quantbooth.programs", "pipeline", *words]
        subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    seconds = time.perf_counter() - begin
    (report,) = (place / "reports").iterdir()
    table = pd.read_csv(report / "table.csv", dtype=str)
    texts = [table.drop(columns=MEASURED).to_csv(), (report / "rows.csv").read_text()]
    digest = hashlib.sha256("".join(texts).encode()).hexdigest()[:12]
    parts = [part for file, part in PARTS.items() if (report / file).is_file()]
    return {"seconds": round(seconds, 1), "digest": digest, "parts": parts}


def _options() -> Namespace:
    parser = ArgumentParser("experiments.launchers.compare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="an empty folder for the stores")
    parser.add_argument("--sweeps", nargs="+", default=list(SWEEPS), choices=SWEEPS)
    parser.add_argument("--launchers", nargs="+", default=list(LAUNCHERS), choices=LAUNCHERS)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the tables go")
    parser.add_argument("options", nargs="*", help="options of all sweeps, such as tuner.steps=50")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
