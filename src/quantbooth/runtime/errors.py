"""The error classes for mistakes that the user can fix."""

from collections.abc import Sequence


class UserError(ValueError):
    """A mistake of the user; the command line prints its message as one line and exits with code 2."""


class WrongOptions(UserError):
    """Several mistakes in a configuration, a line each."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
