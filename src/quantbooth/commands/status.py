"""quantbooth-status: how the jobs of a sweep stand, with the error and the log of each that failed.

quantbooth-status                                 # the newest sweep in outputs
quantbooth-status outputs/logs/sweeps/DAY/TIME    # or the newest one in a folder of sweeps
quantbooth-status -m subject=toy_mug strategy=s1,s2    # the newest sweep of this command line
quantbooth-status outputs/store                   # what is being made in a store, and what was left unfinished
"""

import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

from quantbooth.runtime.ending import ended
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.help import fitted
from quantbooth.runtime.outcomes import DONE, FAILED, NOT_BEGUN, RUNNING, Outcome, Sweep, read_sweep, records
from quantbooth.runtime.retrying import FLAG
from quantbooth.runtime.words import quoted
from quantbooth.store.manifest import KINDS
from quantbooth.store.ownership import owner_of, owning_if_free

__all__ = ["find_sweep", "main", "of_store", "of_sweep", "time_left"]

MISSING = "missing"


def main() -> None:
    """Show a sweep or a store: exit code 0, 1 where a job has failed, 2 for a mistake."""
    sys.exit(ended(_main))


def _main() -> int:
    typed = sys.argv[1:]
    if {"-h", "--help"} & set(typed):
        print(fitted(__doc__ or ""))  # noqa: T201
        return 0
    if "--version" in typed:
        print(f"quantbooth {version('quantbooth')}")  # noqa: T201
        return 0
    if len(typed) == 1 and any((Path(typed[0]) / kind).is_dir() for kind in KINDS):
        print("\n".join(of_store(Path(typed[0]))))  # noqa: T201
        return 0
    sweep = find_sweep(typed)
    states = _states(sweep)
    print("\n".join(of_sweep(sweep, states, time.time())))  # noqa: T201
    return int(any(one.state == FAILED for one in states))


def find_sweep(typed: Sequence[str]) -> Sweep:
    """Return the sweep that words ask for: a folder, or the newest one of a command line.

    Raises:
        UserError: where none is found.
    """
    if len(typed) == 1 and "=" not in typed[0] and not typed[0].startswith("-"):
        if not Path(typed[0]).is_dir():
            raise UserError(f"there is no folder {typed[0]}; name the folder of a sweep, or a store")
        return _newest([read_sweep(folder) for folder in records(Path(typed[0]))])
    places = [word.partition("=")[2] for word in typed if word.startswith("paths.outputs=")] or ["outputs"]
    words = [word for word in typed if word not in ("-m", "--multirun")]
    wanted = sorted(quoted(["-m", *words], "quantbooth")[1:])  # as the sweep recorded them
    found = [read_sweep(folder) for folder in records(Path(places[-1]))]
    same = [one for one in found if not typed or sorted(one.words) == wanted]
    if not same:
        raise UserError(
            f"none of {len(found)} sweeps in {places[-1]} has this command line; quantbooth with the same words and "
            "dry_run=true shows what it would compute"
        )
    return same[-1] if typed else _newest(same)


def _newest(sweeps: Sequence[Sweep]) -> Sweep:
    """Return the last one that computed something, if any."""
    return ([one for one in sweeps if not _is_dry(one)] or sweeps)[-1]


def _is_dry(sweep: Sweep) -> bool:
    return any(re.fullmatch(r"\+*dry_run=true", word, re.IGNORECASE) for word in sweep.words)


def _states(sweep: Sweep) -> list[Outcome]:
    """Return how every known job stands, also those that have not begun."""
    begun = {one.number: one for one in sweep.outcomes()}
    missing = {number: Outcome(number, words, NOT_BEGUN) for number, words in enumerate(sweep.jobs)}
    return [one for _, one in sorted((missing | begun).items())]


def time_left(states: Sequence[Outcome], now: float) -> float | None:
    """Return the seconds that the jobs not done need, as the done ones did; None before one is done."""
    needed = [one.seconds for one in states if one.state == DONE and one.seconds is not None]
    running = [one for one in states if one.state == RUNNING]
    if not needed:
        return None
    each = sum(needed) / len(needed)
    left = sum(max(each - (now - one.began), 0.0) for one in running)
    return (left + each * sum(one.state == NOT_BEGUN for one in states)) / max(len(running), 1)


def of_sweep(sweep: Sweep, states: Sequence[Outcome], now: float) -> list[str]:
    """Return the lines about a sweep."""
    counts = Counter(MISSING if one.state == NOT_BEGUN else one.state for one in states)
    shown = ", ".join(f"{counts[state]} {state}" for state in (DONE, RUNNING, FAILED, MISSING))
    left = time_left(states, now) if counts[RUNNING] else None
    about = "" if left is None else f"; about {timedelta(seconds=round(left))} left"
    about += "; dry_run=true computed nothing" if _is_dry(sweep) else ""
    lines = [f"{sweep.folder}: {len(states)} jobs, {shown}{about}"]
    for one in states:
        match one.state:
            case "running":
                since = timedelta(seconds=round(max(now - one.began, 0)))
                lines.append(f"  running  {one.title}: for {since}, process {one.pid} on {one.host}")
            case "failed":
                lines.append(f"  failed   {one.title}: {one.line}{f'; log: {one.log}' if one.log else ''}")
            case "not begun":
                lines.append(f"  missing  {one.title}")
    if (counts[FAILED] or counts[MISSING]) and not counts[RUNNING] and sweep.jobs:
        lines.append(f"to run what failed or is missing: {sweep.command[0]} {FLAG} {sweep.folder}")
    return lines


def of_store(store: Path) -> list[str]:
    """Return the lines about a store: finished artifacts of each kind, those being made, and those left unfinished."""
    lines, owned = [], set[str]()
    for kind in KINDS:
        finished = [path for path in (store / kind).glob("[!.]*") if path.is_dir()]
        if finished:
            lines.append(f"{kind}: {len(finished)} finished")
        for lock in sorted((store / kind).glob(".*.lock")):
            with owning_if_free(lock) as free:
                if not free:
                    digits = lock.name.strip(".").partition(".")[0]
                    drafts = [name for path in lock.parent.glob(f".*-{digits}.*.partial") if (name := _named(path))]
                    owned.add(digits)
                    lines.append(f"  running  {(drafts or [digits])[0]}: {owner_of(lock)} makes it")
    left = [path.name for path in sorted((store / "unfinished").glob("*")) if path.name.rpartition("-")[2] not in owned]
    return [*lines, *(f"  stopped  {name}: the command that made it goes on with it" for name in left)]


def _named(draft: Path) -> str:
    return re.sub(r"\.\d{8}T\d{6}\.[0-9a-f]{8}\.partial$", "", draft.name[1:])


if __name__ == "__main__":
    main()
