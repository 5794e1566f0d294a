"""Kill every command at changes of files, let its storage fail, run it again, and compare with an undisturbed store.

    python -m experiments.reliability.kills --work DIR --kills 300 --faults 60 --result kills.json

Cases that are finished stand in DIR/cases.jsonl and are not run again.
"""

import argparse
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from experiments.reliability.boundaries import Disturbance, Outcome, run
from experiments.reliability.record import finish, write_counts
from experiments.reliability.verbs import VERBS, Verb, make_inputs

__all__ = ["Bench", "cases", "contents", "main"]

FAULTS = ("ENOSPC", "EIO")
DISTURBED = [name for name in VERBS if name != "calibrate_minmax"]
TIMES = ("seconds", "peak_memory_bytes", "found_drawn", "checksum", "measured", "files", "costs")
"""Keys of what a run costs, and of checksums over them."""


class Bench:
    """A folder with inputs, and per command the files before it and after it."""

    def __init__(self, work: Path) -> None:
        self.work, self.inputs, self.case = work, work / "inputs", work / "case"
        make_inputs(self.inputs)

    def undisturbed(self, name: str) -> Outcome:
        """Run a command after those that it needs; keep the files before and after.

        Raises:
            RuntimeError: when it fails.
        """
        kept, verb = self.work / name, VERBS[name]
        if (kept / "outcome.json").exists():
            return Outcome(**json.loads((kept / "outcome.json").read_text()))
        shutil.rmtree(kept, ignore_errors=True)
        self._begin(None)
        for earlier in verb.after:
            self._must(earlier)
        verb.prepare(self.case)
        shutil.copytree(self.case, kept / "before")
        outcome = self._must(name)
        (kept / "after.json").write_text(json.dumps(contents(self.case)))
        (kept / "outcome.json").write_text(json.dumps(vars(outcome)))
        return outcome

    def disturbed(self, name: str, disturbance: Disturbance) -> dict[str, Any]:
        """Run a disturbed command, then the same again; return what is wrong."""
        verb = VERBS[name]
        self._begin(self.work / name / "before")
        first = run(verb.main, verb.typed(self.inputs), self.case, disturbance)
        again = run(verb.main, verb.typed(self.inputs), self.case)
        expected = json.loads((self.work / name / "after.json").read_text())
        found = contents(self.case)
        wrong = []
        if again.code != verb.code and not (verb.refuses and verb.refuses in again.said):
            wrong.append(f"the second run ended with {again.code}: {again.said[-600:]}")
        wrong += [
            f"differs: {file}" for file in sorted(expected.keys() | found) if expected.get(file) != found.get(file)
        ]
        if disturbance.kind in FAULTS:
            wrong += _wrong_in_the_end(first, verb)
        return {"verb": name, **vars(disturbance), "code": first.code, "wrong": wrong, "said": first.said[-300:]}

    def _must(self, name: str) -> Outcome:
        outcome = run(VERBS[name].main, VERBS[name].typed(self.inputs), self.case)
        if outcome.code != VERBS[name].code:
            raise RuntimeError(f"{name} ended with {outcome.code}: {outcome.said}")
        return outcome

    def _begin(self, before: Path | None) -> None:
        shutil.rmtree(self.case, ignore_errors=True)
        if before is None:
            self.case.mkdir(parents=True)
        else:
            shutil.copytree(before, self.case)


def _wrong_in_the_end(outcome: Outcome, verb: Verb) -> list[str]:
    """Return what is wrong with how a command with a fault ended: in a line and with its code for it, if not well."""
    lines = [line for line in outcome.said.splitlines() if line.startswith("quantbooth: ")]
    wrong = ["a traceback"] if "Traceback" in outcome.said else []
    if outcome.code not in (verb.code, 2, *verb.faulty):
        wrong.append(f"exit code {outcome.code}")
    return wrong + ([] if outcome.code == verb.code or lines else ["no line"])


def contents(case: Path) -> dict[str, str]:
    """Return a digest of every file that a user gets, without times and costs.

    Logs are left out, and locks: that of a killed owner goes with the next artifact of its kind.
    """
    files = [file for file in sorted(case.rglob("*")) if file.is_file() and "logs" not in file.relative_to(case).parts]
    files = [file for file in files if file.suffix != ".lock"]
    return {file.relative_to(case).as_posix(): hashlib.sha256(_timeless(file)).hexdigest()[:16] for file in files}


def _timeless(file: Path) -> bytes:
    if file.suffix == ".json":
        return json.dumps(_without_times(json.loads(file.read_text())), sort_keys=True).encode()
    if file.suffix in (".html", ".md", ".csv", ".tex"):  # with a commit, dates, seconds and sizes in the text
        return re.sub(r"commit [0-9a-f]+|\d+([.:,]\d+)*", "0", file.read_text()).encode()
    return file.read_bytes() if file.suffix != ".svg" else b"a plot"  # with seconds on an axis


def _without_times(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_times(value) for key, value in node.items() if key not in TIMES}
    return [_without_times(each) for each in node] if isinstance(node, list) else node


def cases(changes: int, seconds: float, kills: int, faults: int) -> Iterator[Disturbance]:
    """Yield kills at changes spread over a command, or at times where it has fewer; then faults of each kind."""
    at_changes = min(kills, changes)
    for number in range(at_changes):
        yield Disturbance("kill", 1 + round(number * (changes - 1) / max(at_changes - 1, 1)))
    for number in range(kills - at_changes):
        yield Disturbance("after", round(seconds * (number + 0.5) / (kills - at_changes), 3))
    for number in range(min(faults, changes)):
        yield Disturbance(FAULTS[number % 2], 1 + round(number * (changes - 1) / max(faults - 1, 1)))


def main() -> None:
    """Run what is not finished, and write the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--verbs", nargs="*", default=DISTURBED)
    parser.add_argument("--result", type=Path)
    given = parser.parse_args()
    bench, log = Bench(given.work.absolute()), given.work / "cases.jsonl"
    each = (-(-given.kills // len(given.verbs)), -(-given.faults // len(given.verbs)))
    planned = []
    for name in given.verbs:
        whole = bench.undisturbed(name)
        planned.append([(name, one) for one in cases(whole.changes, whole.seconds, *each)])
    # one case of each command in turn, so that a part of the run is a sample of all
    turns = [case for turn in zip_longest(*planned) for case in turn if case is not None]
    finished = finish(
        log, ((f"{name} {one.kind} {one.at}", partial(bench.disturbed, name, one)) for name, one in turns)
    )
    write_counts(given.result, counts(finished))


def counts(finished: list[dict[str, Any]]) -> dict[str, Any]:
    """Return per command and kind how many cases ran, and which were wrong."""
    ran = Counter(f"{one['verb']} {one['kind']}" for one in finished)
    wrong = [
        {"name": f"{one['verb']} {one['kind']} {one['at']}", "wrong": one["wrong"]} for one in finished if one["wrong"]
    ]
    faults = sum(one["kind"] in FAULTS for one in finished)
    return {"kills": len(finished) - faults, "faults": faults, "cases": dict(sorted(ran.items())), "wrong": wrong}


if __name__ == "__main__":
    main()
