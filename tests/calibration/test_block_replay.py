"""Replay: a call gives what it always gave, each block computes each item once, files go when nothing reads them."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantbooth.calibration.block_cache import Rows, capture_inputs, mapped_rows
from quantbooth.calibration.block_replay import CachedForward, liveness_of, peak_cache_bytes
from quantbooth.calibration.blocks import blocks_of
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.stable_diffusion import StableDiffusion
from quantbooth.quant.surgery import matching

ITEMS = 6
BATCHES = [[0, 1, 2, 3], [4, 5]]
Call = Callable[[Any, Sequence[int]], Any]


class Net(nn.Module):
    """a -> b -> c, then d of a's and c's outputs; e's output goes through d only; f is read by nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.e, self.f = (nn.Linear(3, 3) for _ in range(5))
        self.d = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        start = self.a(x)
        middle = self.c(torch.relu(self.b(start * 2)))
        middle += 1
        end = self.e(self.d(torch.cat([start, middle], 1)))
        self.f(x)
        return torch.tanh(end)


NAMES = ["a", "b", "c", "d", "e", "f"]


def call_net(net: Any, indices: Sequence[int]) -> Any:
    draw = torch.Generator().manual_seed(3)
    return net(torch.randn(ITEMS, 3, generator=draw)[list(indices)])


def call_denoiser(denoiser: Any, indices: Sequence[int]) -> Any:
    draw = torch.Generator().manual_seed(4)
    side, channels = denoiser.config.sample_size, denoiser.config.in_channels
    x = torch.randn(ITEMS, channels, side, side, generator=draw)[list(indices)]
    text = torch.randn(ITEMS, 5, denoiser.config.cross_attention_dim, generator=draw)[list(indices)]
    return denoiser(x, torch.tensor(indices) * 100, encoder_hidden_states=text).sample


@pytest.fixture
def denoiser(base: Base) -> Any:
    return deepcopy(base.denoiser)


@pytest.fixture
def names(denoiser: Any) -> list[str]:
    layers = matching(denoiser, ["*"], ["conv_in", "conv_out"])
    call = partial(call_denoiser, denoiser, [0])
    return [block.name for block in blocks_of(denoiser, StableDiffusion().blocks(denoiser), layers, call)]


def counted(net: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """Counts, from now on, how many items each of these modules computes."""
    counts = dict.fromkeys(names, 0)

    def counting(name: str, forward: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        counts[name] += len(output)
        return output

    for name in names:
        module = net.get_submodule(name)
        module.forward = partial(counting, name, module.forward)
    return counts


def test_readers_of_a_small_net() -> None:
    net = Net()
    liveness = liveness_of(net, NAMES, lambda: call_net(net, [0]))
    assert [use.last_reader for use in liveness] == [3, 2, 3, 4, 4, 5]
    assert [use.input_bytes for use in liveness] == [12, 12, 12, 24, 12, 12]
    assert [use.output_bytes for use in liveness] == [12] * 6
    assert peak_cache_bytes(liveness) == 2 * (12 + 12 + 12) + 24 + 12
    assert not any("forward" in vars(module) for module in net.modules())


def test_readers_are_those_that_a_nan_reaches(denoiser: Any, names: list[str]) -> None:
    """The slow twin: a block's output is made NaN, every other block's is made 0, and we look who is given a NaN."""
    slow, shapes = [], outputs(denoiser, names)
    for writer in range(len(names)):
        reached = [writer]

        def note(number: int, forward: Any, *args: Any, writer: int = writer, seen: Any = reached, **more: Any) -> Any:
            given = [value for value in (*args, *more.values()) if isinstance(value, Tensor)]
            if any(bool(value.isnan().any()) for value in given):
                seen.append(number)
            return torch.full_like(shapes[number], torch.nan if number == writer else 0.0)

        with ExitStack() as stack, torch.no_grad():
            for number, name in enumerate(names):
                module = denoiser.get_submodule(name)
                module.forward = partial(note, number, module.forward)
                stack.callback(delattr, module, "forward")
            call_denoiser(denoiser, [0])
        slow.append(max(reached))
    assert [use.last_reader for use in liveness_of(denoiser, names, lambda: call_denoiser(denoiser, [0]))] == slow
    assert slow[0] == 1
    assert sum(last - number > 3 for number, last in enumerate(slow)) > 2, "the denoiser has no shortcuts"


def outputs(denoiser: Any, names: Sequence[str]) -> list[Tensor]:
    found: list[Tensor] = []
    with ExitStack() as stack:
        for name in names:
            hook = denoiser.get_submodule(name).register_forward_hook(lambda _m, _i, y: found.append(y))
            stack.callback(hook.remove)
        call_denoiser(denoiser, [0])
    return found


def test_a_block_that_gives_its_input_back_is_read_in_place_of_the_block_before_it() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Identity(), nn.Linear(3, 3))
    liveness = liveness_of(net, ["0", "1", "2"], lambda: call_net(net, [0]))
    assert [use.last_reader for use in liveness] == [1, 2, 2]


def test_a_block_that_is_called_twice_is_named() -> None:
    net = nn.Sequential(layer := nn.Linear(3, 3), layer)
    with pytest.raises(ValueError, match="'0' is called again"):
        liveness_of(net, ["0"], lambda: call_net(net, [0]))


def test_calls_give_the_same_bit_for_bit_and_every_block_is_computed_once(
    denoiser: Any, names: list[str], tmp_path: Path
) -> None:
    plain = {
        (end, indices[0]): capture_inputs(denoiser.get_submodule(names[end]), partial(call_denoiser, denoiser, indices))
        for end in range(len(names))
        for indices in BATCHES
    }
    counts = counted(denoiser, names)
    liveness = liveness_of(denoiser, names, lambda: call_denoiser(denoiser, [0]))
    replay = CachedForward(denoiser, names, liveness, tmp_path, ITEMS)
    counts.update(dict.fromkeys(counts, 0))
    most = 0
    for end, name in enumerate(names):
        for indices in BATCHES:
            with replay.running(indices, end):
                given = capture_inputs(denoiser.get_submodule(name), partial(call_denoiser, denoiser, indices))
            expected = plain[end, indices[0]]
            assert given.kwargs.keys() == expected.kwargs.keys()
            ours, theirs = (*given.args, *given.kwargs.values()), (*expected.args, *expected.kwargs.values())
            for value, other in zip(ours, theirs, strict=True):
                assert torch.equal(value, other) if isinstance(value, Tensor) else value == other
        replay.finish(end)
        most = max(most, replay.nbytes)
        assert replay.nbytes == sum(path.stat().st_size for path in tmp_path.iterdir())
        assert counts == {key: ITEMS if number < end else 0 for number, key in enumerate(names)}
    replay.finish(len(names))
    assert not list(tmp_path.iterdir())
    everything = sum(y.numel() * y.element_size() for y in outputs(denoiser, names)) * ITEMS
    assert 0 < most < 0.5 * everything
    assert 2 * most < peak_cache_bytes(liveness) * ITEMS < everything


class Pair(nn.Module):
    """Returns two tensors of a picture and a prompt, and a third thing that is always None."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor, text: Tensor, places: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, None]:
        assert all(place.shape == (5,) for place in places)
        return self.one(x) + self.two(text), self.two(text) * places[0][0], None


class Pairs(nn.Module):
    """Three blocks of two outputs, the second of which the last does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Pair() for _ in range(3))
        self.last = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        text, places = x * 2, (torch.full((5,), 0.5), torch.ones(5))
        for block in self.blocks:
            x, text, _ = block(x, text=text, places=places)
        return self.last(x)


PAIRS = ["blocks.0", "blocks.1", "blocks.2", "last"]


def test_blocks_of_two_outputs_are_kept_whole(tmp_path: Path) -> None:
    net = Pairs()
    liveness = liveness_of(net, PAIRS, lambda: call_net(net, [0]))
    assert [use.last_reader for use in liveness] == [1, 2, 3, 3]
    assert [use.output_bytes for use in liveness] == [24, 24, 24, 12]
    assert [use.input_bytes for use in liveness] == [64, 64, 64, 12]
    replay = CachedForward(net, PAIRS, liveness, tmp_path, ITEMS)
    with torch.no_grad():
        plain = call_net(net, range(ITEMS))
        for end in range(len(PAIRS)):
            for indices in BATCHES:
                with replay.running(indices, end):
                    assert torch.equal(call_net(net, indices), plain[indices])
            replay.finish(end)
            assert replay.nbytes == (2 * 12 * ITEMS if end else 0)
    replay.finish(len(PAIRS))
    assert not list(tmp_path.iterdir())


def test_rows_are_kept_of_items_and_what_all_have_alike_once(tmp_path: Path) -> None:
    rows = Rows(tmp_path, "call", ITEMS)
    tree: dict[str, Any] = {"x": torch.randn(4, 3), "places": (torch.arange(9), None), "scale": 2}
    rows.record(BATCHES[0], tree)
    rows.record(BATCHES[1], {**tree, "x": torch.ones(2, 3)})
    found = rows.batch([5, 0], torch.device("cpu"))
    assert found["places"][0] is tree["places"][0] and found["places"][1] is None and found["scale"] == 2
    assert torch.equal(found["x"], torch.stack([torch.ones(3), tree["x"][0]]))
    assert rows.nbytes == ITEMS * 3 * 4 == sum(path.stat().st_size for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match="must be the same in all calls"):
        rows.record(BATCHES[1], {**tree, "x": torch.ones(2, 3), "places": (torch.zeros(9), None)})
    with pytest.raises(ValueError, match="all calls of a block must be alike"):
        rows.record(BATCHES[1], {"x": torch.ones(2, 3)})
    rows.remove()
    assert not list(tmp_path.iterdir())


def test_it_may_begin_anywhere(tmp_path: Path) -> None:
    net = Net()
    counts = counted(net, NAMES)
    replay = CachedForward(net, NAMES, liveness_of(net, NAMES, lambda: call_net(net, [0])), tmp_path, ITEMS)
    counts.update(dict.fromkeys(counts, 0))
    with torch.no_grad():
        plain = call_net(net, range(ITEMS))
        for _ in range(2):
            for indices in BATCHES:
                with replay.running(indices, 3):
                    assert torch.allclose(call_net(net, indices), plain[indices])
            replay.finish(3)
    assert [counts[name] for name in NAMES] == [2 * ITEMS, 2 * ITEMS, 2 * ITEMS, 3 * ITEMS, 3 * ITEMS, 3 * ITEMS]


def test_the_place_on_the_disk_is_taken_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = mapped_rows(tmp_path / "rows.bin", 3, torch.zeros(1, 4096))
    assert rows.shape == (3, 4096)
    assert (tmp_path / "rows.bin").stat().st_blocks * 512 >= rows.nbytes

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        mapped_rows(tmp_path / "more.bin", 3, torch.zeros(1, 4096))
