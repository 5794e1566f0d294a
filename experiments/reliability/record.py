"""What becomes of cases: those that are finished stand in a file of lines; counts name the commit they are of."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.bench.machine import commit

__all__ = ["finish", "write_counts"]


def finish(log: Path, cases: Iterable[tuple[str, Callable[[], dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Run the cases whose names are not in the log yet; return what became of all of these cases.

    Args:
        log: the file of lines.
        cases: a name of its own, and what runs the case and returns its record.
    """
    lines = log.read_text().splitlines() if log.exists() else []
    finished = {one["name"]: one for one in map(json.loads, lines)}
    found = []
    for name, work in cases:
        if name not in finished:
            finished[name] = {"name": name, **work()}
            with log.open("a") as stream:
                stream.write(json.dumps(finished[name]) + "\n")
            ended = {key: value for key, value in finished[name].items() if key not in ("name", "said")}
            sys.stdout.write(f"{name}: {ended}\n")
            sys.stdout.flush()
        found.append(finished[name])
    return found


def write_counts(file: Path | None, counts: Mapping[str, Any]) -> None:
    """Write counts with the commit of the package they are of, or print them where no file is named."""
    text = json.dumps({"commit": commit("src"), **counts}, indent=1) + "\n"
    if file is None:
        sys.stdout.write(text)
    else:
        file.write_text(text)
