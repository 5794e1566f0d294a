"""Typed options that the command has no use for: those of another command are refused, others are named."""

import re
from collections.abc import Iterable, Mapping, Sequence

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.progress import say

__all__ = ["name_unused", "program_name", "options_in", "require_own"]

OWNERS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("sample",),
    "scale_sets": ("sample", "evaluate", "export"),
    "pictures": ("sample",),
    "dry_run": ("pipeline",),
    "objectives": ("pipeline", "report"),
    "search": ("pipeline",),
    "export": ("export",),
    "report": ("report", "pipeline"),
}
"""Option or group -> the commands that it is of, the one to name first."""


def require_own(words: Sequence[str], command: str) -> None:
    """Refuse options that are of another command alone, before any work.

    Raises:
        UserError: for the first one.
    """
    for word, option in options_in(words):
        owners = OWNERS.get(option.partition(".")[0], (command,))
        if command not in owners:
            raise UserError(
                f"{word} has no effect on {program_name(command)}: {option.partition('.')[0]} is an option of "
                f"{program_name(owners[0])}; leave it out here"
            )


def name_unused(words: Sequence[str], unused: Iterable[str], why: str) -> None:
    """Say which options were given and are not used: commands that follow each other are typed with the same ones."""
    groups = tuple(unused)
    found = [
        word for word, option in options_in(words) if any(f"{option}.".startswith(f"{group}.") for group in groups)
    ]
    if found:
        say(f"not used {why}: {', '.join(found)}")


def options_in(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return each word that sets an option, and the option."""
    found = [(word, re.match(r"[+~]*([\w./]+)(@[\w.]+)?=", word)) for word in words]
    return [(word, match[1]) for word, match in found if match]


def program_name(command: str) -> str:
    """Return the name on the path of a module of commands."""
    return "quantbooth" if command == "pipeline" else f"quantbooth-{command}"
