"""What steps take on this machine's CPU, as commands start: python -m experiments.planning.measure

Each row of the benchmark's CPU that quantbooth's own layers make gets a process of its own, a first step and a second
one, whose peak is kept with what the process had when its libraries were imported. Rows that measured.json has are not
measured again; `--minutes` ends between two rows.
"""

import json
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from experiments.bench.cases import Case
from experiments.bench.machine import facts
from experiments.bench.results import read
from experiments.bench.worker_process import WorkerFailed, WorkerProcess

__all__ = ["FILE", "rows"]

HERE = Path(__file__).parent
FILE = HERE / "measured.json"
STEPS = 2


def rows() -> list[dict[str, Any]]:
    """Return the benchmark's own rows of the CPU, the quickest first."""
    own = [row for row in read(HERE.parent / "bench" / "results.json") if row["method"].startswith("quantbooth")]
    return sorted(
        (row for row in own if row["device"] == "cpu" and row["step_s"]), key=lambda row: float(row["step_s"])
    )


def measured(case: Case) -> dict[str, Any]:
    """Return a case's memory in bytes and its seconds a step."""
    with WorkerProcess(case) as worker:
        build = worker.ask("build")
        steps = [worker.ask("step") for _ in range(STEPS)]
    seconds = [step["forward"] + step["backward"] + step["optimizer"] for step in steps]
    peak = max(step["peak_rss_gb"] for step in steps)
    return {
        **case.key,
        "libraries_gb": build["import_rss_gb"],
        "build_gb": build["build_rss_gb"],
        "peak_gb": peak,
        "seconds": min(seconds),
    }


def main() -> int:
    """Measure what is not measured yet."""
    parser = ArgumentParser("experiments.planning.measure", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=float("inf"))
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    known: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"rows": []}
    known["machine"] = facts()
    for row in rows():
        case = Case.of(row)
        if any(Case.of(one) == case for one in known["rows"]) or time.monotonic() > until:
            continue
        try:
            known["rows"].append(measured(case))
        except WorkerFailed as error:
            sys.stderr.write(f"{case}: {error}\n")
            continue
        FILE.write_text(json.dumps(known, indent=0) + "\n")
        sys.stderr.write(f"{case}: {known['rows'][-1]}\n")
    sys.stdout.write(f"{len(known['rows'])} of {len(rows())} rows\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
