"""Plant mistakes in the package, one at a time, and see which of them no test sees.

    python -m experiments.reliability.mutants --work DIR          plants what is not planted yet, prints the table
    python -m experiments.reliability.mutants --work DIR --again  plants the survivors again, after new tests

The hand-written mistakes of `known` come first, then a seeded draw of `operators` from every file of six rooms. A
mistake is seen by a test that fails; the tests that enter its function run first. `equivalent.json` lists those that
change nothing, with the reason.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.reliability.known import KNOWN, Known
from experiments.reliability.operators import Mutant, mutants_of
from experiments.reliability.warm import Hits, copy_of, killer, planted, record, warm_up

__all__ = ["drawn", "keep", "main", "selected", "table"]

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "src" / "quantbooth"
ROOMS = ("calibration", "diffusion", "evaluation", "quant", "timesteps", "tuning")
RESULTS = "results.jsonl"
TESTS = (*ROOMS, "sampling", "export")
EACH = 5
"""Mistakes drawn from each file."""
SECONDS = (20.0, 30.0, 20.0, 300.0)
"""Limits of the room's tests that enter the function, of all that enter it, that enter the file, of the whole room."""
LONG = 20.0
"""Seconds above which a test is left out."""


def drawn(file: str, source: bytes, seed: int, each: int = EACH) -> list[Mutant]:
    """Return some of a file's mistakes, of as many kinds as there are; changes elsewhere in the file keep the draw."""
    kinds: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in sorted(mutants_of(file, source), key=lambda one: _lot(seed, one.name)):
        kinds[mutant.kind].append(mutant)
    turns = [(turn, _lot(seed, file + kind), one) for kind, ones in kinds.items() for turn, one in enumerate(ones)]
    return [one for _, _, one in sorted(turns, key=lambda each: each[:2])][:each]


def _lot(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def selected(mutant: Mutant | Known, hits: Hits, far: bool) -> list[list[str]]:
    """Return the tests that can see a mistake, by stages: the nearest, the others; `far`, all others of its room."""
    room, _, module = mutant.file.removesuffix(".py").rpartition("/")
    function, prefix, home = f"{mutant.file} {mutant.where}", f"{mutant.file} ", f"tests/{room}/"
    narrow = {test for test, hit in hits.items() if function in hit["entered"]}
    wide = {test for test, hit in hits.items() if any(one.startswith(prefix) for one in hit["entered"])}
    near = {test for test in narrow if test.startswith(home)}
    groups = [near, narrow, wide, {test for test in hits if far and test.startswith(home)}]

    def ordered(tests: Iterable[str], limit: float) -> list[str]:
        files: dict[str, list[str]] = defaultdict(list)
        for test in sorted(tests, key=lambda one: hits[one]["seconds"]):
            files[test.partition("::")[0]].append(test)

        def rank(file: str) -> tuple[int, float]:
            mine = file.startswith(home)
            return (0 if mine and module in file else 1 if mine else 2), hits[files[file][0]]["seconds"]

        found, total = [], 0.0
        for test in [test for file in sorted(files, key=rank) for test in files[file]]:
            seconds = hits[test]["seconds"]
            if total + seconds <= limit and seconds <= LONG:
                total += seconds
                found.append(test)
        return found

    first, *others = (ordered(group, limit) for group, limit in zip(groups, SECONDS, strict=True))
    return [first, list(dict.fromkeys(test for tests in others for test in tests if test not in first))]


def table(mutants: Sequence[Mutant | Known], results: dict[str, Any], equivalent: dict[str, str]) -> dict[str, Any]:
    """Return the counts by room: planted, killed, equivalent, survived."""
    rooms: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant in mutants:
        if mutant.name in results or mutant.name in equivalent:
            killed = results.get(mutant.name, {}).get("killed_by") is not None
            fate = "killed" if killed else "equivalent" if mutant.name in equivalent else "survived"
            for room in (mutant.file.partition("/")[0], "all"):
                rooms[room].update(["planted", fate])
    kinds = ("planted", "killed", "equivalent", "survived")
    return {
        room: {kind: rooms[room][kind] for kind in kinds} for room in sorted(rooms, key=lambda one: (one == "all", one))
    }


def keep(out: Path, draw: dict[str, Any]) -> None:
    """Write a draw beside the others of a file, in place of an older one of the same seed and number."""

    def key(one: dict[str, Any]) -> tuple[int, int]:
        return one["seed"], one["each"]

    draws = json.loads(out.read_text())["draws"] if out.is_file() else []
    draws = sorted([*(one for one in draws if key(one) != key(draw)), draw], key=key)
    out.write_text(json.dumps({"draws": draws}, indent=1) + "\n")


def _commit() -> str:
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _hits(copy: Path, store: Path) -> Hits:
    """Return which test enters which functions, from the store where the test's file has not changed."""
    known = json.loads(store.read_text()) if store.is_file() else {}
    files = sorted(file for room in TESTS for file in (copy / "tests" / room).rglob("test_*.py"))
    files += [copy / test for one in KNOWN for test in one.tests]
    for file in dict.fromkeys(files):
        name, digest = file.relative_to(copy).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()
        if known.get(name, {}).get("digest") != digest:
            known[name] = {"digest": digest, "hits": record(copy, name)}
            sys.stdout.write(f"recorded {name}: {len(known[name]['hits'])} tests\n")
            sys.stdout.flush()
            store.write_text(json.dumps(known))
    return {test: hit for one in known.values() for test, hit in one["hits"].items()}


def _read(file: Path) -> dict[str, Any]:
    lines = file.read_text().splitlines() if file.is_file() else []
    return {one["name"]: one for one in map(json.loads, lines)}


def _plant(mutant: Mutant | Known, copy: Path, hits: Hits, far: bool) -> dict[str, Any]:
    """Plant one mistake, run its tests, and return what happened."""
    file = copy / "src" / "quantbooth" / mutant.file
    stages, began, killed = selected(mutant, hits, far), time.perf_counter(), None
    if isinstance(mutant, Known):
        stages.insert(0, [test for test in hits if test.partition("::")[0] in mutant.tests])
    with planted(file, mutant.planted(file.read_bytes())):
        for tests in filter(None, stages):
            limit = 60 + 3 * sum(hits[test]["seconds"] for test in tests)
            if (killed := killer(copy, tests, limit)) is not None:
                break
    seconds, count = round(time.perf_counter() - began, 1), sum(map(len, stages))
    return {"name": mutant.name, "killed_by": killed, "tests": count, "seconds": seconds}


def _all(seed: int, each: int) -> list[Mutant | Known]:
    """Return the mistakes of this program: those written by hand, and the draw from every file."""
    files = sorted(file for room in ROOMS for file in (PACKAGE / room).rglob("*.py"))
    names = [(file.relative_to(PACKAGE).as_posix(), file.read_bytes()) for file in files]
    return [*KNOWN, *(one for name, text in names for one in drawn(name, text, seed, each))]


def _plant_each(mutants: Sequence[Mutant | Known], work: Path, far: bool) -> None:
    """Plant one after the other; a line of what happened is added to `results.jsonl` for each."""
    copy = copy_of(work / "copy")
    os.chdir(copy)
    os.environ.update(PYTHONPATH=str(copy / "src"), HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", MPLBACKEND="Agg")
    warm_up(copy)
    hits = _hits(copy, work / "hits.json")
    for place, mutant in enumerate(mutants, start=1):
        found = _plant(mutant, copy, hits, far)
        with (work / RESULTS).open("a") as file:
            file.write(json.dumps(found) + "\n")
        told = f"{found['seconds']} s {mutant.name}: {found['killed_by'] or 'SURVIVED'}"
        sys.stdout.write(f"{place}/{len(mutants)} {told}\n")
        sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code, 1 where a mistake survived."""
    parser = argparse.ArgumentParser("experiments.reliability.mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the copy and of what is done so far")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=EACH, help="mistakes drawn from each file")
    parser.add_argument("--only", default="", help="plant those whose names contain this")
    parser.add_argument("--again", action="store_true", help="plant the survivors again")
    parser.add_argument("--far", action="store_true", help="run all tests of the room, the long chains too")
    parser.add_argument("--out", type=Path, help="file that gets the draw: its table, and which test sees what")
    options = parser.parse_args(arguments)
    work, out = options.work.absolute(), options.out and options.out.absolute()
    work.mkdir(parents=True, exist_ok=True)
    mutants, equivalent = _all(options.seed, options.each), json.loads((HERE / "equivalent.json").read_text())
    results = _read(work / RESULTS)
    left = [one for one in mutants if options.only in one.name and one.name not in equivalent]
    left = [one for one in left if one.name not in results or (options.again and not results[one.name]["killed_by"])]
    if left:
        _plant_each(left, work, options.far)
    results = _read(work / RESULTS)
    counts = table(mutants, results, equivalent)
    for room, count in counts.items():
        sys.stdout.write(f"{room:12} " + "  ".join(f"{kind} {number:3}" for kind, number in count.items()) + "\n")
    if out:
        done = [one.name for one in mutants if one.name in results or one.name in equivalent]
        seen_by = {name: results.get(name, {}).get("killed_by") for name in done}
        draw = {"seed": options.seed, "each": options.each, "commit": _commit(), "rooms": counts, "seen_by": seen_by}
        keep(out, draw)
    return 1 if counts["all"]["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
