"""quantbooth-list: show what a store holds, the newest last; scale_sets=NAME uses it by the name in the first column.

quantbooth-list                                  # the store of QUANTBOOTH_STORE, else outputs/store
quantbooth-list toy_mug s2 kind=scale_sets       # what these words occur in, of one kind
quantbooth-list paths.store=DIR
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from omegaconf import OmegaConf

from quantbooth.runtime.config import composed
from quantbooth.runtime.ending import ended, said
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.help import fitted
from quantbooth.runtime.places import require_named
from quantbooth.store.documents import read_options
from quantbooth.store.listing import finished, label_of, short_digits
from quantbooth.store.manifest import KINDS, MANIFEST, read_manifest
from quantbooth.store.store import CONFIG, slugify

__all__ = ["Row", "fitting", "main", "rows_of"]

NARROW, WIDE = 80, 120
GAP = "  "
NONE = "–"
TUNED = ("scale_sets", "tuned_weights", "adapters")
DRAWN = ("image_set", "scores")


@dataclass(frozen=True)
class Row:
    """One artifact: the columns of the list."""

    name: str
    kind: str
    subject: str
    method: str
    base: str
    quant: str
    steps: str
    seed: str
    date: str
    size: str


def rows_of(folders: Sequence[Path]) -> dict[Path, Row]:
    """Return the row of each artifact that can be read, the newest last; say which cannot."""
    names, made = short_digits(folders), dict[Path, Row]()
    for folder in sorted(folders, key=lambda folder: ((folder / MANIFEST).stat().st_mtime, folder.name)):
        try:
            made[folder] = _row(folder, names[folder])
        except UserError as error:
            said(f"not listed: {error}")
    return made


def _row(folder: Path, name: str) -> Row:
    manifest, options = read_manifest(folder), read_options(folder / CONFIG)
    label = label_of(folder)
    subject, method, steps, seed = _tuning(manifest.kind, label, options)
    date = datetime.fromtimestamp((folder / MANIFEST).stat().st_mtime)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    base, quant = (str(_at(options, f"{group}.name") or NONE) for group in ("base", "quant"))
    return Row(name, manifest.kind, subject, method, base, quant, steps, seed, f"{date:%Y-%m-%d %H:%M}", _bytes(size))


def _tuning(kind: str, label: str, options: Mapping[str, object]) -> tuple[str, str, str, str]:
    """Return subject, method, steps and seed, which a label has: SUBJECT-METHOD-QUANT-seedN-stepN."""
    path = Path(str(_at(options, "subject.path") or NONE))
    subject = slugify(str(_at(options, "subject.name") or path.name))
    if kind not in (*TUNED, *DRAWN) or not label.startswith(f"{subject}-"):
        return NONE, NONE if kind not in DRAWN else "class pictures", NONE, NONE
    rest, quant, seed = label.removeprefix(f"{subject}-"), _at(options, "quant.name"), _at(options, "seed")
    method, found, end = rest.partition(f"-{quant}-seed{seed}")
    if not found:  # pictures or scores of the untuned base
        return subject, method.partition(f"-{quant}")[0], "0", NONE
    step, _, more = end.removeprefix("-step").partition("-")
    return subject, f"{method}-{more}" if more else method, step or str(_at(options, "tuner.steps")), str(seed)


def _at(options: Mapping[str, object], option: str) -> object:
    node: object = options
    for key in option.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 9.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def fitting(rows: Sequence[Row], width: int) -> list[str]:
    """Return the lines of a table that is at most this wide.

    Where it would be wider, what all rows share is in a line above, and then the longest cells are shortened.
    """
    heads = [field.name for field in fields(Row)]
    columns = dict(zip(heads, zip(*map(astuple, rows), strict=True), strict=True))
    alike: list[str] = []
    for head in heads[1:]:
        if _width(columns) > width and len(rows) > 1 and len(set(columns[head])) == 1:
            alike.append(f"{head} {columns.pop(head)[0]}")
    while (over := _width(columns) - width) > 0:
        longest = max((head for head in columns if head != "name"), key=lambda head: max(map(len, columns[head])))
        most = max(map(len, columns[longest])) - 1
        columns[longest] = tuple(cell if len(cell) <= most else f"{cell[: most - 1]}…" for cell in columns[longest])
        if most < 4 or over <= 0:
            break
    widths = [max(map(len, (head, *cells))) for head, cells in columns.items()]
    table = [tuple(columns), *zip(*columns.values(), strict=True)]
    lines = [GAP.join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in table]
    return [*([f"all: {', '.join(alike)}"] if alike else []), *lines]


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    return sum(max(map(len, (head, *cells))) + len(GAP) for head, cells in columns.items()) - len(GAP)


def main() -> None:
    """List a store: exit code 0, also where nothing fits the words; 2 for a mistake."""
    sys.exit(ended(_main))


def _main() -> int:
    typed = sys.argv[1:]
    if {"-h", "--help"} & set(typed):
        print(fitted(__doc__ or ""))  # noqa: T201
        return 0
    if "--version" in typed:
        print(f"quantbooth {version('quantbooth')}")  # noqa: T201
        return 0
    kinds, store, words = _asked(typed)
    found = rows_of(finished(store, kinds))
    shown = [row for folder, row in found.items() if all(word in _text(folder, row) for word in words)]
    width = min(WIDE, max(NARROW, shutil.get_terminal_size((WIDE, 24)).columns))
    lines = fitting(shown, width) if shown else []
    print("\n".join([*lines, f"{store}: {len(shown)} of {len(found)} artifacts"]))  # noqa: T201
    return 0


def _asked(typed: Sequence[str]) -> tuple[Sequence[str], Path, list[str]]:
    """Return the kinds, the store and the words that are asked for.

    Raises:
        UserError: for an option or a kind that there is not, or an empty variable of the environment.
    """
    cfg, kinds, words = composed("paths", "default"), KINDS, list[str]()
    for word in typed:
        option, given, value = word.partition("=")
        if word.startswith("-"):
            raise UserError(f"unknown flag '{word}'; write words to look for, kind=KIND or paths.store=DIR")
        if not given:
            words.append(word.lower())
        elif option == "kind":
            kinds = tuple(value.split(","))
            if wrong := [kind for kind in kinds if kind not in KINDS]:
                raise UserError(f"kind must be of {', '.join(KINDS)}, got {wrong[0]!r}")
        elif option in ("paths.store", "paths.outputs") and value:
            OmegaConf.update(cfg, option, value)
        else:
            raise UserError(f"{word} is no option of quantbooth-list; write words, kind=KIND or paths.store=DIR")
    require_named(cfg)
    return kinds, Path(os.path.expanduser(cfg.paths.store)), words


def _text(folder: Path, row: Row) -> str:
    return " ".join([folder.name, *astuple(row)]).lower()


if __name__ == "__main__":
    main()
