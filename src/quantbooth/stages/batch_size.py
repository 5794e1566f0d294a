"""How many pictures fit into memory at a time: found by drawing, with ever more of them, one step each."""

import logging
from collections.abc import Callable

import psutil
import torch

from quantbooth.stages.costs import measured

__all__ = ["batch_that_fits", "free_memory"]

SHARE = 0.8
"""Of the free memory that may be taken: allocators keep more than they need."""
LOG = logging.getLogger(__name__)


def free_memory(device: torch.device) -> int:
    """Bytes that are free where pictures are drawn."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def batch_that_fits(most: int, draw: Callable[[int], object], free: int) -> int:
    """The largest power of two of pictures, or `most`, that should fit.

    A batch of 1 is drawn, then 2, 4 and so on. With p_n the peak of n pictures, p_2n = p_n + 2 (p_n - p_(n/2)) is what
    the next should take; where that is too much the search ends.

    Args:
        most: pictures that are wanted.
        draw: draws so many in a cheap way, with as much memory as drawing them well takes.
        free: bytes, as `free_memory` says before.
    """
    room = _peak(lambda _: None, 0) + SHARE * free
    size, last, peak = 1, None, _peak(draw, 1)
    while size < most:
        expected = peak if last is None else peak + 2 * (peak - last)
        if expected > room:
            break
        larger = min(2 * size, most)
        try:
            last, peak = peak, _peak(draw, larger)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if peak > room:
            break
        size = larger
    LOG.info("%d pictures at a time", size)
    return size


def _peak(draw: Callable[[int], object], count: int) -> int:
    with measured() as cost:
        draw(count)
    return cost.peak_memory_bytes
