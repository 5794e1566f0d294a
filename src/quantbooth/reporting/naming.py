"""Names of rows: a method on weights, and the options that distinguish rows of the same method.

`quantbooth -m strategy=s1 'strategy.interval=[0,200],[200,750]'` gives rows `s1 interval=[0,200]` and
`s1 interval=[200,750]`: where several runs share method, weights, subject and seed, the settings in which they differ
join the name.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantbooth.reporting.results import Result
from quantbooth.runtime.errors import UserError
from quantbooth.schema import FIELDS

__all__ = ["BASE", "Method", "distinguishing_options", "methods_of", "parameters_of"]

BASE = "base"
SHORT = 8
OF_WEIGHTS = ("quant", "calibration")
GROUPS = (*OF_WEIGHTS, "tuner", "strategy", "timesteps", "prior", "optimizer", "resources", "sampler", "trainer")
"""Groups whose options may name a row; others are about resources or evaluation."""
OF_UNTUNED = (*OF_WEIGHTS, "sampler", "trainer")
"""Those that may name a row of the untuned base, whose scores may be found with the tuning options of another run."""
SILENT = {
    f"{group}.{key}"
    for group in ("tuner", "resources", "trainer")
    for key, field in FIELDS[group].items()
    if not field.decides and key != "name"
}
"""Options that change no result."""
NEGATIVE_PROMPT = "negative_prompt"
Options = Mapping[str, str]


@dataclass(frozen=True)
class Method:
    """One row of the table: a method on weights of one kind, with distinguishing options."""

    name: str
    quant: str
    options: tuple[str, ...] = ()

    @property
    def untuned(self) -> bool:
        """Whether this is the base itself."""
        return self.name == BASE


def methods_of(results: Sequence[Result]) -> dict[Result, Method]:
    """Return the row of each result.

    Raises:
        UserError: when two results of one cell, or two quantized bases of one name, differ in no option.
    """
    weights = _weights(results)
    groups: dict[Method, list[Result]] = {}
    for result in results:
        name = BASE if result.untuned else result.method
        groups.setdefault(Method(name, weights.get((result.quant, result.weights), result.quant)), []).append(result)
    found = {}
    for method, own in groups.items():
        for result, options in zip(own, _options(own), strict=True):
            found[result] = Method(method.name, method.quant, options)
    _check_once(found)
    return found


def distinguishing_options(settings: Sequence[Options]) -> list[tuple[str, ...]]:
    """Return for each of several settings the options in which they differ, as `name=value`.

    Copies of another option are left out, and options that follow from others of their group.
    """
    keys = dict.fromkeys(key for one in settings for key in one)
    chosen: dict[str, list[str | None]] = {}
    for key in sorted(keys, key=lambda key: not key.endswith(".name")):
        values = [one.get(key) for one in settings]
        group = [of for other, of in chosen.items() if other.split(".")[0] == key.split(".")[0]]
        known = {*zip(*group, strict=True)} if group else {()}
        if values not in chosen.values() and len({*zip(*group, values, strict=True)}) > len(known):
            chosen[key] = values
    return _named(sorted(chosen, key=list(keys).index), settings)


def _named(chosen: Sequence[str], settings: Sequence[Options]) -> list[tuple[str, ...]]:
    """Return `name=value` of each option that each setting has; ambiguous names are written in full."""
    leaves = [_leaf(key) for key in chosen]
    names = [leaf if leaves.count(leaf) == 1 else key for leaf, key in zip(leaves, chosen, strict=True)]
    return [tuple(f"{n}={one[key]}" for n, key in zip(names, chosen, strict=True) if key in one) for one in settings]


def _leaf(key: str) -> str:
    return key.removesuffix(".name").rsplit(".", 1)[-1]


def _weights(results: Sequence[Result]) -> dict[tuple[str, str], str]:
    """Return a name for each quantized base: its bits, with distinguishing options."""
    bases: dict[str, dict[str, Result]] = {}
    for result in results:
        if result.weights:
            bases.setdefault(result.quant, {}).setdefault(result.weights, result)
    found: dict[tuple[str, str], str] = {}
    for quant, of in bases.items():
        parts = distinguishing_options([dict(_flat(result.settings, OF_WEIGHTS)) for result in of.values()])
        if len(set(parts)) < len(of):
            one, two, *_ = of.values()
            raise UserError(
                f"one report needs one quantized base for {quant}, got {one.weights[:SHORT]} ({one.run}) and "
                f"{two.weights[:SHORT]} ({two.run}); make a report of each"
            )
        found |= {(quant, weights): " ".join([quant, *own]) for weights, own in zip(of, parts, strict=True)}
    return found


def _options(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Return what names each result beyond method and weights: nothing, unless two runs share subject and seed."""
    settings = [_deciding(result) for result in results]
    cells: dict[tuple[object, ...], list[Options]] = {}
    for result, own in zip(results, settings, strict=True):
        cells.setdefault((result.subject, result.seed, result.step), []).append(own)
    of_runs = {(r.subject, r.seed, r.run): own for r, own in zip(results, settings, strict=True)}
    for (subject, seed, _), own in of_runs.items():
        cells.setdefault((subject, seed), []).append(own)
    differing = {
        key for of in cells.values() for key in {k for one in of for k in one} if len({one.get(key) for one in of}) > 1
    }
    return distinguishing_options([{key: value for key, value in own.items() if key in differing} for own in settings])


def parameters_of(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Return for each of several results, of any methods, the options in which they differ, as `name=value`."""
    return distinguishing_options([_deciding(result) for result in results])


def _deciding(result: Result) -> dict[str, str]:
    settings = result.settings
    groups = (
        *(OF_UNTUNED if result.untuned else GROUPS),
        *([NEGATIVE_PROMPT] if settings.get(NEGATIVE_PROMPT) else []),
    )
    word = dict(_flat({"base": {"identifier": settings.get("base", {}).get("identifier")}}, ()))
    return {key: value for key, value in [*_flat(settings, groups), *word.items()] if key not in SILENT}


def _flat(node: Mapping[str, Any], groups: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield dotted keys with values as text; code paths are left out."""
    for key in groups or node:
        value = node.get(key)
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", text) for inner, text in _flat(value, ()))
        elif key in node and not str(key).startswith("_"):
            yield str(key), value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def natural(text: str) -> list[tuple[float, str]]:
    """Return a key by which [200,750] comes before [1000,2000]."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", text)
    return [(float(part), "") if k % 2 else (-1.0, part) for k, part in enumerate(parts)]


def _check_once(found: Mapping[Result, Method]) -> None:
    cells: dict[tuple[Method, str, int, int], Result] = {}
    for result, method in found.items():
        twin = cells.setdefault((method, result.subject, result.seed, result.step), result)
        if twin is not result:
            folders = [(one.run if twin.run != result.run else one.images.name) for one in (twin, result)]
            raise UserError(
                f"each method, subject, seed and step must be given once, got {result.method} {result.quant} on "
                f"{result.subject}, seed {result.seed}, step {result.step} from {' and '.join(folders)}, which differ "
                "in no option that names a row; make a report of each"
            )
