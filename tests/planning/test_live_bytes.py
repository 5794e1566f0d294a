"""Live bytes: a count by hand, fake tensors as real ones, and the memory that a process really takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from quantbooth.planning.live_bytes import LiveBytes, emptied_, fake
from quantbooth.quant.format import pack, unpack

ROOT = Path(__file__).parents[2]


def test_a_hand_computed_sequence() -> None:
    with LiveBytes() as counter:
        one = torch.zeros(1000)  # 4000
        two = one + 1  # 8000
        assert (counter.live, counter.peak) == (8000, 8000)
        three = two.double()  # 4000
        view = three[:10].view(2, 5)  # no memory of its own
        del two, three
        assert (counter.live, counter.peak) == (12_000, 16_000)
        one.add_(1)
        counter.restart()
        assert counter.peak == 12_000
        del view
        assert (counter.live, counter.peak) == (4000, 12_000)


def test_tensors_of_before_are_counted_once_they_are_held() -> None:
    before = torch.zeros(10, dtype=torch.float64)
    view = before.view(2, 5)
    with LiveBytes() as counter:
        assert counter.hold([before, view]) == 80
        assert counter.hold([before]) == 0


def step(dtype: torch.dtype) -> tuple[int, int]:
    """Return live bytes and peak of two training steps of AdamW."""
    with torch.device("meta"):
        layers = nn.Conv2d(3, 8, 3, dtype=dtype), nn.GroupNorm(2, 8, dtype=dtype), nn.Conv2d(8, 4, 1, dtype=dtype)
        network = nn.Sequential(*layers[:2], nn.SiLU(), layers[2])
    with LiveBytes() as counter:
        emptied_(network, torch.device("cpu"))
        optimizer = torch.optim.AdamW(network.parameters())
        for _ in range(2):
            network(torch.ones(16, 3, 32, 32, dtype=dtype)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return counter.live, counter.peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_of_fake_tensors_takes_what_one_of_real_tensors_takes(dtype: torch.dtype) -> None:
    real = step(dtype)
    with fake():
        assert step(dtype) == real


MEASURED = """
import psutil, torch
from quantbooth.planning.live_bytes import LiveBytes
from quantbooth.runtime.profiling import profile
layers = torch.nn.Sequential(*(m for _ in range(6) for m in (torch.nn.Linear(512, 512), torch.nn.GELU()))).double()
x = torch.ones(4000, 512, dtype=torch.float64)
with LiveBytes():  # what it imports comes before
    layers(x[:64]).mean().backward()
before = psutil.Process().memory_info().rss
with profile() as cost, LiveBytes() as counter:
    layers(x).mean().backward()
print(counter.peak, cost.peak_memory_bytes - before)
"""


CONVOLVED = """
import psutil, torch
from quantbooth.planning.live_bytes import LiveBytes
from quantbooth.runtime.profiling import profile
for sizes in ((4, 96, 96, 64, 3), (1, 8, 320, 96, 3), (1, 320, 8, 96, 3), (1, 512, 512, 16, 3)):
    batch, inner, outer, side, kernel = sizes
    x = torch.ones(batch, inner, side, side, requires_grad=True)
    layer = torch.nn.Conv2d(inner, outer, kernel, padding=kernel // 2, bias=False).requires_grad_(LEARNS)
    with LiveBytes():  # what it imports comes before
        layer(x).mean().backward()
    x.grad = layer.weight.grad = None
    before = psutil.Process().memory_info().rss
    with profile() as cost, LiveBytes() as counter:
        layer(x).mean().backward()
    print(counter.peak, cost.peak_memory_bytes - before)
    x.grad = layer.weight.grad = None
"""


def measured(program: str) -> list[tuple[int, int]]:
    """Return counted and measured bytes of each line of a program; malloc gives back what is freed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=ROOT)
    pairs = [line.split() for line in done.stdout.splitlines()]
    return [(int(counted), int(found)) for counted, found in pairs]


@pytest.mark.chain
def test_a_float64_step_takes_the_memory_that_was_counted() -> None:
    ((counted, found),) = measured(MEASURED)
    assert counted > 13 * 4_000 * 512 * 8  # inputs and outputs of layers
    assert found == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.chain
def test_convolutions_take_the_copies_that_were_counted(learns: bool) -> None:
    pairs = measured(CONVOLVED.replace("LEARNS", str(learns)))
    assert len(pairs) == 4
    for counted, found in pairs:
        assert found == pytest.approx(counted, rel=0.1)


def test_a_card_copies_nothing() -> None:
    with fake(), LiveBytes(copies=False) as counter:
        nn.functional.conv2d(torch.empty(1, 4, 8, 8), torch.empty(2, 4, 3, 3), padding=1)
    assert counter.peak == 4 * (4 * 64 + 2 * 36 + 2 * 64)


def test_checks_of_values_pass_and_a_mask_selects_what_it_is_said_to() -> None:
    with fake(), LiveBytes() as counter:
        numbers = torch.empty(5, 3)
        assert numbers.isfinite().all() and not (numbers < 0).any()
        assert numbers.sum().item() == 1.0
        mask = counter.mark(torch.empty(5), 2).bool()
        assert (numbers[mask].shape, numbers[~mask].shape) == ((2, 3), (3, 3))
        numbers[mask] = torch.empty(2, 3)


def test_real_codes_are_unpacked_after_fake_ones() -> None:
    codes = torch.arange(12, dtype=torch.uint8).view(2, 6)
    with fake():
        assert unpack(torch.empty(2, 3, dtype=torch.uint8), 4, 6).shape == (2, 6)
    assert unpack(pack(codes, 4), 4, 6).equal(codes)


def test_networks_without_weights_get_memory_and_keep_what_is_tied() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4))
    network[1].weight = network[0].weight
    with fake(), LiveBytes() as counter:
        emptied_(network, torch.device("cpu"))
        assert counter.live == 4 * (12 + 4 * 4) + 8
    assert network[1].weight is network[0].weight


def test_products_convolutions_and_attentions_are_counted_as_by_hand() -> None:
    linear, convolution = nn.Linear(5, 7), nn.Conv2d(3, 4, 3)
    with fake(), LiveBytes() as counter:
        emptied_(linear.to("meta"), torch.device("cpu"))
        emptied_(convolution.to("meta"), torch.device("cpu"))
        counter.restart()
        linear(torch.empty(2, 5))
        assert counter.flops == 2 * 2 * 5 * 7
        counter.restart()
        convolution(torch.empty(2, 3, 6, 6))
        assert counter.flops == 2 * (2 * 4 * 4 * 4) * (3 * 3 * 3)
        counter.restart()
        query = torch.empty(2, 3, 16, 8, requires_grad=True)
        key, value = (torch.empty(2, 3, 10, 8, requires_grad=True) for _ in range(2))
        found = nn.functional.scaled_dot_product_attention(query, key, value)
        pairs = 2 * 3 * 16 * 10
        assert counter.flops == 2 * pairs * (8 + 8)
        counter.restart()
        found.sum().backward()
        assert counter.flops == 2 * pairs * 5 * 8
