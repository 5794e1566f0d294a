"""Graphs of a denoiser's calls: what is replayed computes what the denoiser computes, whatever changed in between.

Without a GPU, the capture is a stand-in with the same memory: it reads its arguments from where they were at the
capture, writes its output where it was then, and computes without looking at anything that a graph cannot see.
"""

import weakref
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from quantbooth.quant.format import Grid
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.scale_sets import attach_
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import quantize_
from quantbooth.tuning.graphs import Graphs, ReplayGraphs


class Denoiser(nn.Module):
    """Two layers of a prompt and a time, called with keywords and one argument that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor, t: Tensor, *, text: Tensor, negative: bool = False) -> tuple[Tensor]:
        y = self.two(torch.tanh(self.one(x + text))) * (1 + t[:, None] / 10)
        return (-y if negative else y,)


class Recorded(list[Any]):
    """Stands for `torch.cuda.make_graphed_callables`, and keeps what was captured."""

    def __call__(
        self, call: nn.Module, static: tuple[Tensor, ...], num_warmup_iters: int, allow_unused_input: bool
    ) -> Callable[..., Any]:
        self.append(call)
        output = torch.empty(0)

        def replay(*given: Tensor) -> tuple[Tensor]:
            nonlocal output
            for place, new in zip(static, given, strict=True):
                assert place.shape == new.shape
                place.data.copy_(new)
            with selection.fixed(static[0]):
                (made,) = call(*static)
            if torch.is_grad_enabled():
                return (made,)
            output = made.clone() if output.shape != made.shape else output.copy_(made)
            return (output,)

        selection = self.selection
        return replay

    selection: SetSelection


@pytest.fixture
def parts() -> tuple[Denoiser, SetSelection, Graphs, Recorded]:
    denoiser = Denoiser().requires_grad_(False)
    quantize_(denoiser, MinMaxObserver(Grid(4)))
    selection = attach_(denoiser, 2)
    for one in denoiser.parameters():
        one.data.add_(0.3 * torch.randn_like(one))
    capture = Recorded()
    capture.selection = selection
    return denoiser, selection, Graphs(denoiser, selection, capture=capture), capture


def call(denoiser: nn.Module, selection: SetSelection, sets: list[int], seed: int, **more: Any) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    selection.choose(torch.tensor(sets))
    given = (torch.randn(len(sets), 6, generator=draw), torch.arange(len(sets)))
    y: Tensor = denoiser(*given, text=torch.randn(len(sets), 6, generator=draw), **more)[0]
    return y


def test_a_replay_has_new_inputs_new_sets_and_new_parameters(
    parts: tuple[Denoiser, SetSelection, Graphs, Recorded],
) -> None:
    denoiser, selection, graphs, capture = parts
    gain: Any = denoiser.one.gain_out
    for seed, sets in enumerate([[1, 2, 0], [2, 2, 1], [0, 0, 1]]):
        expected = call(denoiser, selection, sets, seed)
        expected.sum().backward()
        gradient, gain.grad = gain.grad, None
        with graphs.replayed():
            made = call(denoiser, selection, sets, seed)
        made.sum().backward()
        assert torch.equal(made, expected)
        assert torch.equal(gain.grad, gradient)
        gain.grad = None
        with torch.no_grad():
            gain.add_(0.1)
    assert len(capture) == 1


def test_every_kind_of_call_has_a_graph_of_its_own(parts: tuple[Denoiser, SetSelection, Graphs, Recorded]) -> None:
    denoiser, selection, graphs, capture = parts
    with graphs.replayed():
        call(denoiser, selection, [1], 0).sum().backward()
        call(denoiser, selection, [1, 1], 0).sum().backward()
        assert torch.equal(call(denoiser, selection, [1], 0), -call(denoiser, selection, [1], 0, negative=True))
        with torch.no_grad():
            first = call(denoiser, selection, [2], 1)
            kept = first.clone()
            call(denoiser, selection, [2], 2)
        assert torch.equal(first, kept)  # a later call of the kind does not write over it
    assert len(capture) == 4
    assert "forward" not in vars(denoiser)


def test_a_second_forward_before_the_backward_is_refused(
    parts: tuple[Denoiser, SetSelection, Graphs, Recorded],
) -> None:
    denoiser, selection, graphs, _ = parts
    with graphs.replayed():
        first = call(denoiser, selection, [1], 0)
        call(denoiser, selection, [2], 0)
        with pytest.raises(RuntimeError, match="before its next forward"):
            first.sum().backward()


def test_a_set_that_layers_do_not_have_is_refused(parts: tuple[Denoiser, SetSelection, Graphs, Recorded]) -> None:
    denoiser, selection, graphs, _ = parts
    with graphs.replayed():
        call(denoiser, selection, [1], 0)
        with pytest.raises(RuntimeError, match="3"):
            call(denoiser, selection, [3], 0)


def test_parameters_that_moved_are_captured_again(parts: tuple[Denoiser, SetSelection, Graphs, Recorded]) -> None:
    denoiser, selection, graphs, capture = parts
    with graphs.replayed():
        call(denoiser, selection, [1], 0)
        gain: Any = denoiser.two.gain_out
        gain.data = gain.data.clone()
        call(denoiser, selection, [1], 0)
    assert len(capture) == 2


def test_a_network_in_another_mode_is_captured_again(parts: tuple[Denoiser, SetSelection, Graphs, Recorded]) -> None:
    denoiser, selection, graphs, capture = parts
    with graphs.replayed():
        call(denoiser, selection, [1], 0)
        denoiser.eval()
        call(denoiser, selection, [1], 0)
    assert len(capture) == 2


def on_a_card() -> tuple[Any, Any]:
    """A trainer and a module that say that they are on a GPU."""
    return Mock(spec=Trainer, accumulate_grad_batches=1), Mock(spec=LightningModule, device=torch.device("cuda"))


def test_the_detection_of_anomalies_sees_each_operation() -> None:
    """A graph has no values between its launches, and recording one ends where a value is looked at."""
    denoiser = Denoiser()
    replays = ReplayGraphs(denoiser, None)
    with torch.autograd.set_detect_anomaly(True):
        replays.on_train_batch_start(*on_a_card(), None, 0)
        assert "forward" not in vars(denoiser)
    replays.on_train_batch_start(*on_a_card(), None, 0)
    assert "forward" in vars(denoiser)


def test_the_graphs_of_a_training_are_freed_at_its_end(
    parts: tuple[Denoiser, SetSelection, Graphs, Recorded],
) -> None:
    denoiser, selection, _, capture = parts
    replays = ReplayGraphs(denoiser, selection)
    replays.graphs = Graphs(denoiser, selection, capture=capture)
    replays.on_train_batch_start(*on_a_card(), None, 0)
    call(denoiser, selection, [1], 0).sum().backward()
    replays.on_train_batch_end(*on_a_card())
    held = capture.pop()
    held.cycle = held  # as PyTorch's forward of a graph
    graph = weakref.ref(held)
    del held
    replays.teardown(*on_a_card(), "fit")
    assert graph() is None
