"""What a command writes to stderr, without the lines that report progress."""

import re

PROGRESS = re.compile(r"(found: \w.*|(job \d+( of \d+)?: )?\w.*: \d+(/\d+)? in \d+:\d\d:\d\d)\n")


def complaints(said: str) -> str:
    """Return all other lines: refusals, warnings, tracebacks."""
    return "".join(line for line in said.splitlines(keepends=True) if not PROGRESS.fullmatch(line))
