"""Kinds of option values: each says what is allowed, and tests a value. A field is an option of one kind.

Nothing is converted: true is no number, "100" is no number, and nan, infinity and numbers beyond `MOST` are refused.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from os.path import expanduser
from typing import Any

__all__ = [
    *("FLAG", "INTERVAL", "MAPPING", "MOST", "NULL", "PATH", "SEED", "TEXT", "TEXTS", "Field", "Kind"),
    *("checked", "either", "ignored", "left_out", "list_of", "number", "one_of", "optional", "shown", "whole"),
]

MOST = 10**9
"""The largest whole number of an option without a bound of its own."""
LONGEST = 80
_ALWAYS = object()


@dataclass(frozen=True)
class Kind:
    """A kind of values.

    Attributes:
        allowed: what is allowed, as in "tuner.steps must be ...".
        holds: whether a value is of this kind.
    """

    allowed: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Field:
    """The values of one option, and how it enters an identity.

    Attributes:
        kind: of its values.
        decides: whether it decides the content; names, resources and previews do not.
        neutral: a value without effect that is left out of identities, so that adding the option renames no artifact.
    """

    kind: Kind
    decides: bool = True
    neutral: Any = _ALWAYS

    def enters(self, value: object) -> bool:
        """Return whether this value is part of an identity."""
        return self.decides and not (type(value) is type(self.neutral) and value == self.neutral)


def ignored(kind: Kind) -> Field:
    """Return a field that never decides."""
    return Field(kind, decides=False)


def checked(**kinds: Kind) -> dict[str, Field]:
    """Return fields that decide, by their kinds."""
    return {name: Field(kind) for name, kind in kinds.items()}


def left_out(reason: str, *names: str) -> dict[str, Field]:
    """Return fields of options that a library has and quantbooth does not honour, with the reason."""
    kind = Kind(f"left out ({reason})", lambda _: False)
    return {name: ignored(kind) for name in names}


def whole(least: int, most: int = MOST) -> Kind:
    """Return the integers in [least, most]."""
    return Kind(f"a whole number from {least} to {most}", lambda value: type(value) is int and least <= value <= most)


def number(least: float = 0, *, below: float | None = None, positive: bool = False) -> Kind:
    """Return the finite numbers in [least, below), or those > 0."""
    start = "> 0" if positive else f">= {least:g}"
    end = "" if below is None else f" and < {below:g}"
    most = sys.float_info.max

    def holds(value: Any) -> bool:
        if type(value) not in (int, float) or not -most <= value <= most:
            return False
        return (value > 0 if positive else value >= least) and (below is None or value < below)

    return Kind(f"a finite number {start}{end}", holds)


def one_of(*choices: object) -> Kind:
    """Return these values alone."""
    names = ["null" if choice is None else str(choice) for choice in choices]
    allowed = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    return Kind(allowed, lambda value: any(type(value) is type(c) and value == c for c in choices))


def list_of(kind: Kind, least: int = 0, most: int = MOST, distinct: bool = False) -> Kind:
    """Return the lists of `least` to `most` values of a kind, different ones where `distinct`."""
    size = "[a,b]" if most == 2 else "[a,b,...]"
    not_empty = ", not empty" if least == 1 else ""
    different = ", all different" if distinct else ""

    def holds(values: Any) -> bool:
        if not isinstance(values, list | tuple) or not least <= len(values) <= most:
            return False
        return all(map(kind.holds, values)) and not (distinct and len(set(values)) < len(values))

    return Kind(f"a list {size}{not_empty}{different}, each {kind.allowed}", holds)


def either(*kinds: Kind) -> Kind:
    """Return the values of any of several kinds."""
    return Kind(", or ".join(kind.allowed for kind in kinds), lambda value: any(kind.holds(value) for kind in kinds))


def optional(kind: Kind) -> Kind:
    """Return the values of a kind, and null."""
    return either(kind, NULL)


def shown(value: object) -> str:
    """Return a value as a person types it, shortened."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


NULL = Kind("null", lambda value: value is None)
FLAG = Kind("true or false", lambda value: type(value) is bool)
TEXT = Kind("a text", lambda value: isinstance(value, str) and bool(value.strip()) and "\0" not in value)
PATH = Kind("a path", lambda value: TEXT.holds(value) and not expanduser(value).startswith("~"))  # ~nobody is none
TEXTS = list_of(TEXT)
SEED = whole(0, 2**32 - 1)
INTERVAL = list_of(whole(0), 2, 2)
MAPPING = Kind("a group of options", lambda value: isinstance(value, dict))
