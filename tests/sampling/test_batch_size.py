"""The batch that fits: as many as memory holds by what smaller batches took, never more than are wanted."""

import pytest
import torch

from quantbooth.sampling import module as batch_size
from quantbooth.sampling.module import batch_that_fits, free_memory


class Machine:
    """Has 100 bytes in use, and takes 10 and 7 more for each picture."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, breaks_at: int = 10**9, error: Exception | None = None) -> None:
        self.drawn: list[int] = []
        self.breaks_at, self.error = breaks_at, error
        monkeypatch.setattr(batch_size, "_peak", self.peak)

    def peak(self, draw: object, count: int) -> int:
        if count >= self.breaks_at and self.error is not None:
            raise self.error
        if count:
            self.drawn.append(count)
        return 100 + (10 + 7 * count if count else 0)


@pytest.mark.parametrize(
    ("most", "free", "expected"),
    [(1, 10**6, 1), (5, 10**6, 5), (64, 10**6, 64), (64, 10 + 7 * 20, 16), (64, 10 + 7 * 15, 8), (64, 0, 1)],
)
def test_the_last_batch_that_fits_is_taken(
    monkeypatch: pytest.MonkeyPatch, most: int, free: int, expected: int
) -> None:
    machine = Machine(monkeypatch)
    assert batch_that_fits(most, lambda _: None, int(free / batch_size.SHARE)) == expected
    assert max(machine.drawn) <= most
    assert all(100 + 10 + 7 * count <= 100 + free for count in machine.drawn[2:])


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", FULL, ids=repr)
def test_a_device_that_runs_out_has_the_batch_before(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    Machine(monkeypatch, breaks_at=8, error=error)
    assert batch_that_fits(64, lambda _: None, 10**6) == 4


def test_another_error_of_a_batch_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, breaks_at=8, error=RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        batch_that_fits(64, lambda _: None, 10**6)


def test_real_memory_is_looked_at() -> None:
    held = 40 * 2**20
    found = batch_that_fits(64, lambda count: torch.ones(count * held, dtype=torch.uint8), int(10 * held / 0.8))
    assert found in (4, 8)
    assert free_memory(torch.device("cpu")) > held
