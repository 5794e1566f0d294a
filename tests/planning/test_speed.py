"""The speed of products: what this machine does, and no more than twice what larger products do."""

import time

import torch

from quantbooth.planning.speed import products_per_second


def test_the_speed_is_that_of_products_of_this_machine() -> None:
    one = torch.randn(1024, 1024)
    begin = time.perf_counter()
    (one @ one).sum().item()
    slow = 2 * 1024**3 / (time.perf_counter() - begin)
    found = products_per_second(torch.device("cpu"), torch.float32)
    assert slow / 5 < found < 5e12  # of a CPU
