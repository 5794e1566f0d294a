"""Names of rows in a sweep: runs that would share a cell are named by the settings in which they differ.

s1, s1, s1  ->  s1 interval=[0,200], s1 interval=[200,750], s1 interval=[750,1000]
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from quantbooth.reporting.results import Result

__all__ = ["name_by_what_is_swept"]

UNNAMED = ("seed", "subject", "subjects", "paths", "logger", "report", "export", "experiment", "prompt", "pictures")
"""Settings that no row is named by: each has a column of its own, or changes nothing."""

FIRST = ("strategy", "tuner", "quant", "calibration", "prior", "sampler")
"""Groups whose options name a row before others that have the same values."""


def name_by_what_is_swept(results: Sequence[Result], settings: Sequence[Mapping[str, Any]]) -> list[Result]:
    """Return the results, `method` followed by the settings in which runs differ that would share a cell.

    Args:
        results: of any runs.
        settings: the resolved configuration of each result's run; empty where it was not kept.
    """
    by_run = {result.run: _flat(own) for result, own in zip(results, settings, strict=True) if result.step}
    cells: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for result in results:
        if result.step:
            cell = cells[result.method, result.subject, result.seed, result.quant]
            cell += [] if result.run in cell else [result.run]
    keys: dict[str, list[str]] = defaultdict(list)
    for (method, *_), runs in cells.items():
        keys[method] += [key for key in _differing([by_run[run] for run in runs]) if key not in keys[method]]
    return [
        replace(result, method=_named(result.method, keys[result.method], by_run[result.run]))
        if result.step
        else result
        for result in results
    ]


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by dotted key, without what no row is named by."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        if (not prefix and key in UNNAMED) or key.startswith("_"):
            continue
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _differing(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys in which some of the runs differ; of keys that always agree, the one of the first group."""

    def order(key: str) -> tuple[Any, ...]:
        group = key.partition(".")[0]
        return FIRST.index(group) if group in FIRST else len(FIRST), key.count("."), len(key), key

    every = sorted({key for run in runs for key in run}, key=order)
    seen: dict[str, str] = {}
    for key in every:
        values = [run.get(key) for run in runs]
        if any(value != values[0] for value in values):
            seen.setdefault(repr(values), key)
    return list(seen.values())


def _named(method: str, keys: Sequence[str], settings: Mapping[str, Any]) -> str:
    lasts = [key.rpartition(".")[2] for key in keys]
    shown = [last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)]
    return " ".join([method, *(f"{name}={_value(settings.get(key))}" for name, key in zip(shown, keys, strict=True))])


def _value(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
