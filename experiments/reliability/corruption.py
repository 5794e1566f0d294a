"""Change a file of a finished artifact, run the command that reads it, and see what becomes of it.

    python -m experiments.reliability.corruption --work DIR --cases 500 --result corruption.json

    outcome = "refused"    exit code 2 (of verify: 1), and a line names the artifact
            | "unnamed"    refused, but no line names it
            | "silent"     exit code 0: what was changed was used, or not looked at
            | "traceback", "hang", or "left", where a half-written artifact stays in the store

Cases that are finished stand in DIR/cases.jsonl and are not run again.
"""

import argparse
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from experiments.reliability.boundaries import Outcome, run
from experiments.reliability.kills import Bench
from experiments.reliability.record import finish, write_counts
from experiments.reliability.verbs import VERBS
from quantbooth.commands import verify
from quantbooth.store.manifest import KINDS

__all__ = ["CHANGES", "Case", "main", "outcome", "planned"]

STORE = Path("out", "store")
HUNG = -9


@dataclass(frozen=True)
class Reader:
    """A command, the one whose finished store it finds, what of it is removed first, and what it reads."""

    verb: str
    after: str
    removed: tuple[str, ...]
    reads: tuple[str, ...]

    def run(self, inputs: Path, case: Path) -> Outcome:
        if self.verb == "verify":
            return run(verify.main, [str(STORE)], case)
        return run(VERBS[self.verb].main, VERBS[self.verb].typed(inputs), case)


EVERY = tuple(f"{kind}/*" for kind in KINDS)
READERS = (
    Reader("calibrate", "calibrate", ("quantized_base/*",), ("calibration_set/*",)),
    Reader("tune", "tune", ("scale_sets/*",), ("quantized_base/*", "image_set/*")),
    Reader("sample", "tune", (), ("quantized_base/*", "scale_sets/*")),
    Reader("evaluate", "sample", (), ("image_set/toy*",)),  # not the class pictures
    Reader("report", "evaluate", (), ("scores/*",)),
    Reader("export", "tune", (), ("quantized_base/*", "scale_sets/*")),
    Reader("degradation", "degradation", ("damage/*w4*",), ("quantized_base/*", "damage/*")),
    Reader("verify", "evaluate", (), EVERY),
    Reader("verify", "degradation", (), EVERY),
)


def _flip(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


CHANGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "a bit": _flip,
    "a bit of the head": lambda content, draw: _flip(content[:16], draw) + content[16:],
    "a bit of the end": lambda content, draw: content[:-16] + _flip(content[-16:], draw),
    "cut": lambda content, draw: content[: draw.randrange(1, len(content))] if len(content) > 1 else b"",
    "grown": lambda content, draw: content + draw.randbytes(7),
    "a page of zeros": lambda content, _: bytes(min(512, len(content))) + content[512:],
    "emptied": lambda content, draw: b"",
    "removed": lambda content, draw: None,
}


@dataclass(frozen=True)
class Case:
    """A reader, a file of the store, and the kind of change made to it."""

    reader: Reader
    file: str
    change: str

    @property
    def name(self) -> str:
        return f"{self.reader.verb} after {self.reader.after}: {self.change}: {self.file}"

    @property
    def artifact(self) -> str:
        return Path(self.file).parts[1]


def prepared(bench: Bench, reader: Reader) -> Path:
    """Return the folder with the store that a reader finds."""
    place = bench.work / f"found-{reader.verb}-{reader.after}"
    if not place.exists():
        bench.undisturbed(reader.after)
        draft = place.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(bench.work / reader.after / "before", draft)
        ended = run(VERBS[reader.after].main, VERBS[reader.after].typed(bench.inputs), draft)
        if ended.code != 0:
            raise RuntimeError(f"{reader.after} ended with {ended.code}: {ended.said}")
        for pattern in reader.removed:
            for folder in (draft / STORE).glob(pattern):
                shutil.rmtree(folder)
        draft.rename(place)
    return place


def planned(stores: dict[Reader, Path], count: int, seed: int) -> list[Case]:
    """Return cases drawn in turn from every reader, kind of artifact and kind of file."""
    draw = random.Random(seed)
    groups: dict[tuple[Reader, str, str, str], list[Case]] = defaultdict(list)
    for reader, place in stores.items():
        read = [folder for pattern in reader.reads for folder in place.joinpath(STORE).glob(pattern)]
        for file in sorted(file for folder in read for file in folder.rglob("*") if file.is_file()):
            name = file.relative_to(place / STORE).as_posix()
            if file.suffix != ".lock":
                group = (reader, name.split("/")[0], file.suffix, file.stem if file.suffix == ".json" else "")
                groups[group] += [Case(reader, name, change) for change in CHANGES]
    shuffled = [draw.sample(group, len(group)) for group in groups.values()]
    turns = [case for turn in zip_longest(*shuffled) for case in turn if case is not None]
    return turns[:count]


def outcome(ended: Outcome, case: Case, left: list[str]) -> str:
    """Return what became of a case; `left` are names of half-written artifacts in the store."""
    if "Traceback" in ended.said:
        return "traceback"
    if ended.code == HUNG:
        return "hang"
    if ended.code == 0:
        return "silent"
    if left:
        return "left"
    lines = [line for line in ended.said.splitlines() if line.startswith("quantbooth: ")]
    return "refused" if any(case.artifact in line for line in lines) else "unnamed"


def tried(bench: Bench, place: Path, case: Case) -> dict[str, Any]:
    """Change the file in a copy, run the reader, and return what became of it."""
    shutil.rmtree(bench.case, ignore_errors=True)
    shutil.copytree(place, bench.case)
    file = bench.case / STORE / case.file
    content = file.read_bytes()
    changed = CHANGES[case.change](content, random.Random(case.name)) if content else b"x"
    if changed is None:
        file.unlink()
    else:
        file.write_bytes(changed)
    before = set(_hidden(bench.case))
    ended = case.reader.run(bench.inputs, bench.case)
    left = sorted(set(_hidden(bench.case)) - before)
    return {"code": ended.code, "ended": outcome(ended, case, left), "said": ended.said[-400:]}


def _hidden(case: Path) -> Iterator[str]:
    for folder in (case / STORE).glob("*/.*"):
        if folder.is_dir():
            yield folder.as_posix()


def main() -> int:
    """Run what is not finished, and write the counts; return 1 where a change was not refused by name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path)
    options = parser.parse_args()
    bench = Bench(options.work.absolute())
    stores = {reader: prepared(bench, reader) for reader in READERS}
    cases = planned(stores, options.cases, options.seed)
    found = finish(
        options.work / "cases.jsonl", ((case.name, partial(tried, bench, stores[case.reader], case)) for case in cases)
    )
    counts = Counter(one["ended"] for one in found)
    wrong = [one for one in found if one["ended"] != "refused"]
    kinds = dict(sorted(Counter(f"{case.file.partition('/')[0]}, {case.change}" for case in cases).items()))
    result = {"cases": len(found), "seed": options.seed, "ended": dict(counts), "kinds": kinds, "wrong": wrong}
    write_counts(options.result, result)
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
