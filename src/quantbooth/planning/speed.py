"""How fast this machine multiplies: what turns counted operations into an estimate of time."""

import time

import torch

__all__ = ["products_per_second"]

SIDE = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices that are multiplied, large enough for the device's full speed."""
TIMES = 5


@torch.no_grad()
def products_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations a second of a product of two matrices, the best of a few."""
    side = SIDE[device.type]
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(TIMES):
        begin = time.perf_counter()
        float((one @ other)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - begin)
    return 2 * side**3 / min(seconds)
