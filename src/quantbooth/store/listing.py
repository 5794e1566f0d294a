"""What a store holds, by names: a folder is label-digits, and a person types the label or the first digits.

toy_mug-s2-w4-seed0-859710105c30    is named by    toy_mug-s2-w4-seed0, 8597, toy_mug-s2-w4-seed0-8597
"""

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.places import STORE
from quantbooth.store.files import SHORT
from quantbooth.store.manifest import KINDS, MANIFEST

__all__ = ["FEWEST", "digits_of", "find_named", "finished", "label_of", "short_digits"]

FEWEST = 4
"""Digits of a fingerprint that name an artifact."""
LISTED = 4
NAME = re.compile(rf"(.+)-([0-9a-f]{{{SHORT}}})")


def finished(root: Path, kinds: Iterable[str] = KINDS) -> list[Path]:
    """Return the folders of finished artifacts of these kinds, without opening them.

    Raises:
        UserError: when there is no such store.
    """
    if not root.is_dir():
        raise UserError(f"no store at {root}; name it by paths.store=DIR or the environment variable {STORE}")
    places = [path for kind in kinds for path in sorted((root / kind).glob("[!.]*"))]
    return [path for path in places if os.path.lexists(path / MANIFEST)]


def label_of(folder: Path) -> str:
    """Return the name of an artifact without the digits of its fingerprint."""
    found = NAME.fullmatch(folder.name)
    return found[1] if found else folder.name


def digits_of(folder: Path) -> str:
    """Return the digits of the fingerprint in an artifact's name; none where somebody renamed it."""
    found = NAME.fullmatch(folder.name)
    return found[2] if found else ""


def short_digits(folders: Sequence[Path]) -> dict[Path, str]:
    """Return the fewest first digits, at least four, that no other of these artifacts begins with."""
    short = {}
    for folder in folders:
        digits = digits_of(folder)
        others = [digits_of(each) for each in folders if each != folder]
        fits = (n for n in range(FEWEST, SHORT) if not any(each.startswith(digits[:n]) for each in others))
        short[folder] = digits[: next(fits, SHORT)] or folder.name
    return short


def find_named(root: Path, name: str, kinds: Sequence[str], option: str) -> Path:
    """Return the only finished artifact of these kinds that has this name, or the first digits of its fingerprint.

    Raises:
        UserError: when none has it, or several have.
    """
    folders = finished(root, kinds)
    found = [folder for folder in folders if _is_named(folder, name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{option}={name} names {len(found)} artifacts in {root}: {_listed([each.name for each in found])}; add "
            f"digits of one, such as {option}={short_digits(found)[found[0]]}"
        )
    names = [folder.name for folder in folders]
    near = [each for each in names if name in each] or difflib.get_close_matches(name, names, LISTED, 0.5)
    known = f"; near are {_listed(near)}" if near else ""
    raise UserError(f"{option}={name} names nothing in {root}{known}; quantbooth-list paths.store={root} shows all")


def _is_named(folder: Path, name: str) -> bool:
    label, digits = label_of(folder), digits_of(folder)
    if name in (folder.name, label):
        return True
    start, _, end = name.rpartition("-")
    typed = end if start in ("", label) else ""
    return len(typed) >= FEWEST and bool(digits) and (digits.startswith(typed) or typed.startswith(digits))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
