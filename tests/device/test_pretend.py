"""The pretended device: numbers of the CPU, the refusals of CUDA, and every wait and crossing noted once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pretend import DEVICE, MASK, READ, SENT, TO_CPU, TO_DEVICE, Looks

pytestmark = pytest.mark.device

ONES = torch.ones(3)


def test_it_computes_with_gradients_what_the_cpu_computes(looks: Looks) -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.LayerNorm(5)), torch.randn(2, 4)
    expected = network(x).square().sum()
    expected.backward()
    gradients = [one.grad.clone() for one in network.parameters() if one.grad is not None]
    network.zero_grad()
    found = network.to(DEVICE)(x.to(DEVICE)).square().sum()
    found.backward()
    assert torch.equal(found.cpu(), expected)
    for one, gradient in zip(network.parameters(), gradients, strict=True):
        assert one.device == torch.device(DEVICE) and one.grad is not None
        assert torch.equal(one.grad.cpu(), gradient)


@pytest.mark.parametrize(
    "mix",
    [
        lambda there: there + ONES,
        lambda there: torch.cat([there, ONES]),
        lambda there: there @ ONES,
        lambda there: nn.Linear(3, 3)(there),
        lambda there: ONES[there.long()],
        lambda there: torch.stack([there[0], torch.tensor(1.0)]),
    ],
)
def test_devices_do_not_mix(looks: Looks, mix: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        mix(ONES.to(DEVICE))


def test_its_values_are_no_array(looks: Looks) -> None:
    with pytest.raises(TypeError, match="numpy"):
        ONES.to(DEVICE).numpy()


@pytest.mark.parametrize(
    ("look", "kind"),
    [
        (lambda there: there[0].item(), READ),
        (lambda there: bool((there > 0).all()), READ),
        (lambda there: there.tolist(), READ),
        (lambda there: torch.equal(there, there), READ),
        (lambda there: there.cpu(), TO_CPU),
        (lambda there: torch.empty(3).copy_(there), TO_CPU),
        (lambda there: there[there > 0], MASK),
        (lambda there: there.nonzero(), MASK),
        (lambda there: there[torch.tensor([0, 1])], TO_DEVICE),
        (lambda there: ONES.to(DEVICE), TO_DEVICE),
        (lambda there: torch.tensor([1.0], device=DEVICE), TO_DEVICE),
        (lambda there: there.copy_(ONES), TO_DEVICE),
        (lambda there: ONES.to(DEVICE, non_blocking=True), SENT),
    ],
)
def test_what_cuda_waits_for_is_noted_once(looks: Looks, look: Callable[[Tensor], object], kind: str) -> None:
    there = ONES.to(DEVICE)
    looks.clear()
    look(there)
    ((found, line),) = looks
    assert (found, looks[found, line]) == (kind, 1)
    assert "test_pretend.py" in line
    assert bool(looks.waits) == (kind != SENT)


@pytest.mark.parametrize(
    "work",
    [
        lambda there: there * torch.tensor(2.0),
        lambda there: torch.zeros(2, device=DEVICE) + there[:2],
        lambda there: there.index_put_((there > 0,), torch.tensor(2.0)),
        lambda there: torch.where(there > 0, there, 0.0),
        lambda there: torch._assert_async((there > 0).all(), "above 0"),
        lambda there: there[there.long()],
    ],
)
def test_what_cuda_does_by_itself_is_not(looks: Looks, work: Callable[[Tensor], object]) -> None:
    there = ONES.to(DEVICE)
    looks.clear()
    work(there)
    assert not looks


def test_autocast_computes_products_in_half_precision_and_norms_in_full(looks: Looks) -> None:
    layer, norm, x = nn.Linear(3, 3).to(DEVICE), nn.LayerNorm(3).to(DEVICE), ONES.expand(2, 3).to(DEVICE)
    with torch.autocast(torch.device(DEVICE).type, torch.bfloat16):
        y = layer(x)
        z = norm(y)
    assert (y.dtype, z.dtype, layer(x).dtype) == (torch.bfloat16, torch.float32, torch.float32)
    z.square().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
