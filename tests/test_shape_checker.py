"""Annotations are checked in the first calls of a function in each test, and from the first call again in the next."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

import shape_checker
from quantbooth.quant.format import Grid, pack, packed_width
from quantbooth.timesteps.zones import Zones, equal_zones

CODES = torch.zeros(2, 3, dtype=torch.uint8)
HOLDS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "pack": (lambda: pack(CODES, 4), lambda: pack(CODES[None], 4)),
    "packed_width": (lambda: packed_width(4, 3), lambda: packed_width(4, 3.0)),  # type: ignore[arg-type]
    "equal_zones": (lambda: equal_zones(2, 1000), lambda: equal_zones(2.0, 1000)),  # type: ignore[arg-type]
    "Grid.__init__": (lambda: Grid(4), lambda: Grid(4, symmetric="no")),  # type: ignore[arg-type]
    "Zones.index": (lambda: ZONES.index(torch.tensor([5.0])), lambda: ZONES.index(5)),  # type: ignore[arg-type]
}
ZONES: Zones = equal_zones(2, 1000)


@pytest.mark.parametrize("name", HOLDS)
def test_what_is_wrong_is_refused_from_the_first_call_to_the_last_look(name: str) -> None:
    right, wrong = HOLDS[name]
    for _ in range(2):
        for _ in range(shape_checker.LOOKS // 2 - 1):
            right()
        with pytest.raises(TypeCheckError):
            wrong()
        right()
        (passed,) = (one for one in shape_checker.passed if one.__qualname__ == name)
        assert inspect.getattr_static(passed, "__no_type_check__")
        shape_checker.begin()
        assert not hasattr(passed, "__no_type_check__")
