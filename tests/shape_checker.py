"""The checker of annotations that pytest hands to jaxtyping: beartype, for the first calls of a function in each test.

An int is a float, as PEP 484 has it. A function that is called ten thousand times by a chain is given the same kinds of
arguments again and again, and looking at each took more than half of the chain's time.
The option `--jaxtyping-packages` takes a plain name only where it names several packages (jaxtyping 0.3).
"""

import inspect
import sys
from collections import Counter
from collections.abc import Callable
from types import FunctionType
from typing import Any

from beartype import BeartypeConf, beartype

__all__ = ["LOOKS", "begin", "check"]

LOOKS = 100
"""At arguments and returned values of a function, in the setup of a test and again in the test itself."""

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
looks: Counter[tuple[str, str]] = Counter()
passed: list[FunctionType] = []


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with its annotations checked, counted by name; what checks is made at the first call."""
    name = function.__module__, function.__qualname__
    ready: list[Callable[..., Any]] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        if not ready:
            ready.append(checked(function))
        looks[name] += 1
        if looks[name] == LOOKS:
            _pass(*name)
        return ready[0](*args, **kwargs)

    return counted


def begin() -> None:
    """Look at every function again."""
    looks.clear()
    while passed:
        del passed.pop().__no_type_check__  # type: ignore[attr-defined]


def _pass(module: str, qualified: str) -> None:
    """Mark a function as `typing.no_type_check` does, which jaxtyping asks in each call; one in a function stays."""
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = inspect.getattr_static(found, part, None)
    for inner in ("__func__", "fget", "func"):  # of a static or class method, a property, a cached property
        found = getattr(found, inner, found)
    function = inspect.unwrap(found) if callable(found) else None
    if isinstance(function, FunctionType) and function.__qualname__ == qualified:
        function.__no_type_check__ = True  # type: ignore[attr-defined]
        passed.append(function)
