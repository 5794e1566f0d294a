"""Profiling: each block has a separate peak, independent of earlier blocks."""

import pytest
import torch

from quantbooth.runtime.profiling import RESET, profile

LARGE = 400 * 2**20


def test_memory_held_at_any_moment_of_the_work_counts() -> None:
    with profile() as before:
        pass
    with profile() as cost:
        held = torch.ones(LARGE, dtype=torch.uint8)
        del held
    assert cost.peak_memory_bytes >= before.peak_memory_bytes + 0.9 * LARGE
    assert cost.seconds > 0


@pytest.mark.skipif(not RESET.exists(), reason="this system cannot reset a peak")
def test_the_next_work_does_not_inherit_the_peak() -> None:
    with profile() as large:
        held = torch.ones(LARGE, dtype=torch.uint8)
        del held
    with profile() as small:
        pass
    assert small.peak_memory_bytes < large.peak_memory_bytes - 0.5 * LARGE


def test_work_that_fails_is_measured_too() -> None:
    with pytest.raises(ValueError, match="x"), profile() as cost:
        raise ValueError("x")
    assert cost.peak_memory_bytes > 0
