"""How much memory this process has: resident now, and the most since the peak was reset."""

import resource
from pathlib import Path

import torch

__all__ = ["cuda_peak", "offer_to_the_kernel", "peak", "reset_peak", "resident"]

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
SCORE = Path("/proc/self/oom_score_adj")


def resident() -> int:
    """Bytes of this process in memory now, pages of libraries among them; 0 where the system does not tell."""
    return _status("VmRSS")


def peak() -> int:
    """The most bytes since `reset_peak`; where the system has no /proc, since the process began."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak() -> None:
    """Let the peak begin here, of the process and of the GPU; without /proc the former stays."""
    if RESET.exists():
        RESET.write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def cuda_peak() -> int | None:
    """The most bytes that CUDA's allocator gave out since `reset_peak`; None where there is no GPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def offer_to_the_kernel() -> None:
    """Be the first to be ended when memory runs out, before anything else on the machine."""
    if SCORE.exists():
        SCORE.write_text("1000")


def _status(kind: str) -> int:
    if not STATUS.exists():
        return 0
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024
