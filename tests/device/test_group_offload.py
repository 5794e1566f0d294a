"""Group offloading: the bits of a denoiser that is on the device whole, and each block sent once in each direction."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from pretend import DEVICE, SENT, Looks, Pretend
from quantbooth.quant.group_offload import GroupOffload
from quantbooth.quant.scale_sets import Parts, attach_
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import quantize_
from quantbooth.runtime.errors import UserError

pytestmark = pytest.mark.device

OWN = "quantbooth/quant/group_offload.py"
BLOCKS = 5
NAMES = [f"blocks.{place}" for place in reversed(range(BLOCKS))]  # the order of calls is another one


class Network(nn.Module):
    """Blocks between two layers outside of them, and a connection past all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.checkpointing = nn.Linear(6, 8), nn.Linear(8, 3), False
        blocks = [nn.Sequential(nn.Linear(8, 4 + place), nn.GELU(), nn.Linear(4 + place, 8)) for place in range(BLOCKS)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = start = self.first(x)
        for block in self.blocks:
            x = checkpoint(block.__call__, x, use_reentrant=False) if self.checkpointing else block(x)
        result: Tensor = self.last(x + start)
        return result


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    made, selection = Network(), SetSelection()
    quantize_(made, 4)
    attach_(made, 2, selection, Parts(inputs=True, biases=True))
    selection.choose(torch.tensor([2, 0, 1]))
    for one in made.parameters():
        one.data += 0.1 * torch.randn_like(one)
    return made


def sends(looks: Looks, before: Looks) -> int:
    """How many blocks were sent since."""
    return sum(count for (kind, line), count in looks.since(before).items() if kind == SENT and OWN in line)


def step(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the output and all gradients, on the CPU."""
    network.zero_grad()
    made = network(x)
    made.square().sum().backward()
    return [made.detach().cpu(), *(one.grad.cpu() for one in network.parameters() if one.grad is not None)]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_steps_have_the_same_bits_and_send_each_block_once_a_direction(
    network: Network, looks: Looks, checkpointing: bool
) -> None:
    network.checkpointing, x = checkpointing, torch.randn(3, 6)
    whole = deepcopy(network).to(DEVICE)
    offload = GroupOffload(network, NAMES)
    network.to(DEVICE)
    assert {layer.codes.device.type for group in offload.groups for layer in group.layers} == {"cpu"}
    counts = []
    for _ in range(3):
        expected, before = step(whole, x.to(DEVICE)), Looks(looks)
        found = step(network, x.to(DEVICE))
        counts.append(sends(looks, before))
        assert all(map(torch.equal, found, expected))
        assert len(found) == len(expected) == 1 + len(list(network.parameters()))
    assert counts == [2 * BLOCKS - 2, 2 * BLOCKS - 4, 2 * BLOCKS - 4]  # two are there where a direction ends
    assert not [line for (kind, line), _ in looks.waits.items() if OWN in line]


def test_the_next_block_is_sent_before_it_is_called(
    network: Network, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    offload, x = GroupOffload(network, NAMES), torch.randn(3, 6)
    network.to(DEVICE)
    step(network, x.to(DEVICE))
    events: list[str] = []
    places = {group: len(offload.groups) - 1 - place for place, group in enumerate(offload.groups)}
    send, visit = offload._send, GroupOffload.visit

    def sent(group: Any, place: int) -> None:
        events.append(f"send {places[group]}")
        send(group, place)

    def visited(self: GroupOffload, group: Any) -> None:
        if self._here is None or self._here[0] is not group:
            events.append(f"visit {places[group]}")
        visit(self, group)

    monkeypatch.setattr(offload, "_send", sent)
    monkeypatch.setattr(GroupOffload, "visit", visited)
    step(network, x.to(DEVICE))
    forward = ["visit 1", "send 2", "visit 2", "send 3", "visit 3", "send 4", "visit 4"]
    assert events == [*forward, "visit 3", "send 2", "visit 2", "send 1", "visit 1", "send 0", "visit 0"]


def test_predictions_send_each_block_once_and_have_two_places(network: Network, looks: Looks) -> None:
    x, whole = torch.randn(3, 6), deepcopy(network)
    offload = GroupOffload(network, NAMES)
    network.to(DEVICE)
    for _ in range(3):
        before = Looks(looks)
        with torch.no_grad():
            found = network(x.to(DEVICE))
        torch.testing.assert_close(found.cpu(), whole(x), rtol=0, atol=1e-5)
    assert sends(looks, before) == BLOCKS
    assert [len(place) for place in offload._places] == [max(len(group.stored) for group in offload.groups)] * 2
    there = [group for group in offload.groups if group.layers[0].codes.device.type != "cpu"]
    assert len(there) == 1


def test_teachers_and_other_calls_between_steps_change_nothing(network: Network, looks: Looks) -> None:
    """A prediction without gradient before each step, as a teacher's, and one on the CPU after moving there."""
    x, whole = torch.randn(3, 6), deepcopy(network).to(DEVICE)
    GroupOffload(network, NAMES)
    for device in (DEVICE, "cpu", DEVICE):
        network.to(device)
        for _ in range(3):
            before = Looks(looks)
            with torch.no_grad():
                network(x.to(device))
            found = step(network, x.to(device))
        if device == DEVICE:
            assert all(map(torch.equal, found, step(whole, x.to(DEVICE))))
            assert sends(looks, before) == BLOCKS - 2 + BLOCKS + BLOCKS - 2
        else:
            assert sends(looks, before) == 0
            assert all(layer.codes.device.type == "cpu" for layer in network.modules() if hasattr(layer, "codes"))


def test_too_few_blocks_with_codes_are_refused(network: Network) -> None:
    with pytest.raises(UserError, match="resources.group_offload=true needs 3 or more .* found 2"):
        GroupOffload(network, NAMES[:2])


class Stream:
    """A CUDA stream of which every copy comes as late as it may: when another stream waits for it."""

    def __init__(self, _: Any = None) -> None:
        self.queued: list[Callable[[], Any]] = []
        self.waited = False

    def wait_stream(self, other: "Stream") -> None:
        self.waited = True
        while other.queued:
            other.queued.pop(0)()


class Late(TorchDispatchMode):
    """Queues copies in a stream that waited for the computing one before each; what they replace is gone at once."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation is not torch.ops.aten.copy_.default:
            return operation(*args, **(kwargs or {}))
        assert self.stream.waited
        self.stream.waited = False
        args[0].fill_(255)
        self.stream.queued.append(partial(operation, *args))
        return args[0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_streams_wait_for_each_other(
    network: Network, looks: Looks, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    """The protocol of two CUDA streams and pinned memory, without CUDA."""
    network.checkpointing, x, pinned, used = checkpointing, torch.randn(3, 6), list[Tensor](), list[Any]()
    whole, computing = deepcopy(network).to(DEVICE), Stream()

    def pin(one: Tensor) -> Tensor:
        pinned.append(one.clone())
        return pinned[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(Pretend, "record_stream", lambda _, stream: used.append(stream), raising=False)
    monkeypatch.setattr("quantbooth.quant.group_offload.CUDA", torch.device(DEVICE).type)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: computing)
    monkeypatch.setattr(torch.cuda, "stream", Late)
    offload = GroupOffload(network, NAMES, pinned=True)
    network.to(DEVICE)
    for _ in range(3):
        assert all(map(torch.equal, step(network, x.to(DEVICE)), step(whole, x.to(DEVICE))))
    assert [id(group.stored) for group in offload.groups] == [id(one) for one in pinned]
    assert len(used) == sum(count for (_, line), count in looks.items() if OWN in line) > 0
    assert set(used) == {offload._stream}
