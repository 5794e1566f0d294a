"""Kinds of values: which they hold, and how a value is shown."""

import pytest

from quantbooth.kinds import PATH, Kind, either, list_of, number, one_of, optional, shown, whole

INFINITY = float("inf")


@pytest.mark.parametrize(
    ("kind", "held", "refused"),
    [
        (whole(2, 16), (2, 16), (1, 17, 2.0, True, "2", None)),
        (number(), (0, 0.5, 10**6), (-0.1, True, "1", None, float("nan"), INFINITY, 10**400)),
        (number(below=1), (0, 0.99), (1, 1.0, -0.1)),
        (number(positive=True), (1e-9, 3), (0, 0.0, -1)),
        (one_of(2, "a", None), (2, "a", None), (2.0, "2", True, "b", [2])),
        (one_of(1), (1,), (True, 1.0)),
        (optional(whole(0)), (0, None), (-1, "null")),
        (either(whole(1), one_of("auto")), (1, "auto"), (0, "1", None)),
        (list_of(whole(0)), ([], [1, 1], (2,)), (1, "1", None, {"a": 1}, [True], [-1])),
        (list_of(whole(0), 1, distinct=True), ([0], [0, 1]), ([], [1, 1])),
        (list_of(number(), 2, 2), ([20, 2],), ([20], [1, 2, 3], 3)),
    ],
)
def test_kinds(kind: Kind, held: tuple[object, ...], refused: tuple[object, ...]) -> None:
    assert [value for value in held if not kind.holds(value)] == []
    assert [value for value in refused if kind.holds(value)] == []


def test_values_are_shown_as_they_are_typed_and_not_without_end() -> None:
    assert [shown(value) for value in (None, True, False, "a", 0, 1)] == ["null", "true", "false", "'a'", "0", "1"]
    assert len(shown(10**400)) < 100


def test_a_home_of_nobody_is_no_path() -> None:
    assert PATH.holds("~/store")
    assert not PATH.holds("~nobody-of-this-name/store")
