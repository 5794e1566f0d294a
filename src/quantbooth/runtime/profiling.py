"""Profiling: seconds and peak memory of a block of code."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Cost", "peak_memory", "profile"]

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """Wall seconds and peak memory of a block, set when it ends."""

    seconds: float = 0.0
    peak_memory_bytes: int = 0


@contextmanager
def profile() -> Iterator[Cost]:
    """Measure the block: on a GPU the peak of CUDA's allocator, else the peak resident memory of this process.

    On Linux the peak is reset first, so that each job of a sweep in one process has a separate peak; elsewhere it is
    the peak of the process so far.
    """
    cost, start = Cost(), time.perf_counter()
    _reset_peak()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        cost.peak_memory_bytes = peak_memory()


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if RESET.exists():
        RESET.write_text("5")


def peak_memory() -> int:
    """Return the peak since the block of `profile` began, in bytes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
