"""How numbers are written: signs, units, dashes."""

import pytest

from quantbooth.reporting.columns import COSTS, Unit, score_named, signed


def test_a_difference_has_a_true_sign_unless_it_rounds_to_nothing() -> None:
    unit = Unit("", 1, 3)
    assert [signed(v, unit) for v in (0.0123, -0.0123, 0.0004, -0.0004)] == ["+0.012", "−0.012", "0.000", "0.000"]


def test_a_unit_is_the_largest_in_which_nothing_is_below_one() -> None:
    memory = COSTS[0]
    assert memory.unit([655e6, 2.1e9]).text(2.1e9) == "2,100"
    assert memory.header(memory.unit([655e6, 2.1e9])) == "peak memory (MB)"
    assert memory.unit([1.31e6, float("nan")]).text(1.31e6) == "1.3"
    assert memory.unit([float("nan")]).text(float("nan")) == "–"


def test_an_unknown_score_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'fid'"):
        score_named("fid")
