"""Write table.md, the counts of all attacks, from the files that the attacks write beside it.

python -m experiments.reliability.table
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantbooth.reporting.tables import markdown

__all__ = ["ATTACKS", "Attack", "main", "rows"]

HERE = Path(__file__).parent
HEAD = ("attack", "asked", "cases", "bad", "what became of them", "of commit", "command")
LONG = 10
"""Minutes of a life from which its memory tells something."""
FLAT = 30
"""MB by which a life may grow and is called flat."""
Counts = Mapping[str, Any]


@dataclass(frozen=True)
class Attack:
    """A row: its name, the file of its counts, how many are asked, and how cases, bad ones and a text are read."""

    name: str
    file: str
    asked: int
    cases: Callable[[Counts], int]
    bad: Callable[[Counts], int]
    text: Callable[[Counts], str]
    command: str


def _ended(counts: Counts) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in sorted(counts["ended"].items()))


def _wrong_of(*kinds: str) -> Callable[[Counts], int]:
    return lambda counts: sum(one["name"].split()[1] in kinds for one in counts["wrong"])


def _different(counts: Counts) -> dict[str, str | None]:
    """Return every planted mistake of all draws, each once, and the test that sees it."""
    return {name: test for draw in counts["draws"] for name, test in draw["seen_by"].items()}


def _fates(counts: Counts) -> str:
    seen = sum(test is not None for test in _different(counts).values())
    unseen = len(_different(counts)) - seen - _survived(counts)
    return f"different ones in {len(counts['draws'])} draws: {seen} seen by a test, {unseen} change nothing"


def _survived(counts: Counts) -> int:
    return sum(int(draw["rooms"]["all"]["survived"]) for draw in counts["draws"])


def _lives(counts: Counts) -> str:
    memory, handles = (counts[f"{name}_growth"][-1] for name in ("memory_mb", "handles"))
    said = (
        f"{counts['jobs']} jobs in {counts['hours']} hours; {counts['compared']} files of some jobs are the same as "
        f"made alone; the longest life, {counts['longest_life_minutes']} minutes, "
    )
    if not _tells(counts):
        return f"{said}is too short to tell of memory"
    return f"{said}needs {memory:g} MB and {handles:g} handles more in its last third than in its second"


def _tells(counts: Counts) -> bool:
    """Return whether a life was long enough: shorter ones are mostly imports and first jobs (see `long_sweep`)."""
    return bool(counts["longest_life_minutes"] >= LONG)


def _lost(counts: Counts) -> int:
    lost = counts["missing"] + len(counts["redone"]) + len(counts["differ"])
    grew = _tells(counts) and counts["memory_mb_growth"][-1] > FLAT
    return int(lost + bool(counts["code"] or counts["faults"]) + grew)


ATTACKS = (
    Attack(
        "a command killed at a change of a file, or at a time, then run again",
        "kills.json",
        300,
        lambda counts: int(counts["kills"]),
        _wrong_of("kill", "after"),
        lambda counts: f"{len({name.split()[0] for name in counts['cases']})} commands; files as of an undisturbed run",
        "kills",
    ),
    Attack(
        "full disk, failing disk at a change of a file, then run again",
        "kills.json",
        60,
        lambda counts: int(counts["faults"]),
        _wrong_of("ENOSPC", "EIO"),
        lambda _: "one line or success; files as of an undisturbed run",
        "kills",
    ),
    Attack(
        "a file of an artifact changed",
        "corruption.json",
        500,
        lambda counts: int(counts["cases"]),
        lambda counts: len(counts["wrong"]),
        _ended,
        "corruption",
    ),
    Attack(
        "hostile and foreign files",
        "hostile.json",
        200,
        lambda counts: int(counts["cases"]),
        lambda counts: len(counts["wrong"]),
        _ended,
        "hostile",
    ),
    Attack(
        "random options, composed and checked",
        "fuzz.json",
        10000,
        lambda counts: int(counts["cases"]),
        lambda counts: len(counts["wrong"]),
        _ended,
        "fuzz",
    ),
    Attack(
        "random options, run on a tiny base",
        "fuzz_runs.json",
        300,
        lambda counts: int(counts["cases"]),
        lambda counts: len(counts["wrong"]),
        _ended,
        "fuzz --runs",
    ),
    Attack(
        "mistakes planted in the code",
        "mutants.json",
        300,
        lambda counts: len(_different(counts)),
        _survived,
        _fates,
        "mutants",
    ),
    Attack(
        "a sweep killed every few minutes for an hour, then undisturbed",
        "long_sweep.json",
        15,
        lambda counts: int(counts["kills"]),
        _lost,
        _lives,
        "long_sweep",
    ),
    Attack(
        "memory of a sweep that nobody disturbs",
        "long_sweep_undisturbed.json",
        1,
        lambda counts: 1,
        _lost,
        _lives,
        "long_sweep --minutes 0",
    ),
)


def rows(folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield the row of every attack whose counts are there; others say so."""
    for attack in ATTACKS:
        program = f"`python -m experiments.reliability.{attack.command}`"
        if not (folder / attack.file).exists():
            yield attack.name, f"{attack.asked:,}", "not run", "", "", "", program
            continue
        counts = json.loads((folder / attack.file).read_text())
        commits = counts.get("commit") or ", ".join(draw["commit"] for draw in counts["draws"])
        numbers = (f"{number:,}" for number in (attack.asked, attack.cases(counts), attack.bad(counts)))
        yield (attack.name, *numbers, attack.text(counts), commits, program)


def main() -> None:
    """Write the table."""
    (HERE / "table.md").write_text(markdown(HEAD, rows(HERE)) + "\n")
    sys.stdout.write(f"{HERE / 'table.md'}\n")


if __name__ == "__main__":
    main()
