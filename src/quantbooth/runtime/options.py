"""Validation of option values: flags, numbers, lists and paths; an error names the option."""

from collections.abc import Sequence
from pathlib import Path

from quantbooth.runtime.errors import UserError

__all__ = ["flag", "number", "place", "whole", "wholes", "words"]


def flag(option: str, value: object) -> bool:
    """Check a boolean option and return its value.

    Raises:
        UserError: when it is neither true nor false.
    """
    if not isinstance(value, bool):
        raise UserError(f"{option} must be true or false, got {value!r}")
    return value


def whole(option: str, value: object, least: int, below: int | None = None) -> int:
    """Check an integer option and return its value.

    Raises:
        UserError: when it is not an integer in [least, below).
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (below is not None and value >= below):
        end = "" if below is None else f" and < {below}"
        raise UserError(f"{option} must be a whole number >= {least}{end}, got {value!r}")
    return value


def wholes(option: str, values: object, least: int) -> list[int]:
    """Check a list of integers and return it.

    Raises:
        UserError: when it is not a list, or one of them is not an integer >= least.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UserError(f"{option} must be a list of whole numbers such as [1,2], got {values!r}")
    return [whole(option, value, least) for value in values]


def number(option: str, value: object, least: float, below: float | None = None) -> float:
    """Check a number and return it as a float.

    Raises:
        UserError: when it is not a number in [least, below), or nan.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not value >= least
        or (below is not None and value >= below)
    ):
        end = "" if below is None else f" and < {below:g}"
        raise UserError(f"{option} must be a number >= {least:g}{end}, got {value!r}")
    return float(value)


def words(option: str, values: object) -> list[str]:
    """Check a list of strings and return it.

    Raises:
        UserError: when it is not a list, or one of them is not a string.
    """
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(isinstance(v, str) for v in values):
        raise UserError(f"{option} must be a list of texts such as [conv_in,mid_block.*], got {values!r}")
    return list(values)


def place(option: str, value: object) -> Path:
    """Check a path and return it with ~ expanded.

    Raises:
        UserError: when it is not a string, or empty.
    """
    if not isinstance(value, str) or not value:
        raise UserError(f"{option} must be a path, got {value!r}")
    return Path(value).expanduser()
