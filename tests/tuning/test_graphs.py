"""Graphs of a denoiser's calls: what is replayed computes what the denoiser computes, whatever changed in between.

Without a GPU, graphs keep PyTorch's operations and their memory (`recorded`), and all else is PyTorch's.
"""

import weakref
from contextlib import nullcontext
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from quantbooth.quant.format import Grid
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.scale_sets import Parts, attach_
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.small_biases import mark_small_biases_
from quantbooth.quant.surgery import quantize_
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.averaging import Average
from quantbooth.tuning.graphs import Graphs, ReplayGraphs
from quantbooth.tuning.teacher import distance_from_start
from recorded import without_a_card


class Denoiser(nn.Module):
    """Two layers of a prompt and a time, called with keywords and one argument that is no tensor."""

    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 6)

    def block(self, x: Tensor) -> Tensor:
        y: Tensor = self.two(torch.tanh(self.one(x)))
        return y

    def forward(self, x: Tensor, t: Tensor, *, text: Tensor, negative: bool = False) -> tuple[Tensor]:
        x = x + text
        y = checkpoint(self.block, x, use_reentrant=False) if self.checkpointed else self.block(x)
        y = y * (1 + t[:, None] / 10)
        return (-y if negative else y,)


Stage = tuple[Denoiser, SetSelection, Graphs]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Stage:
    without_a_card(monkeypatch)
    return made()


def made(checkpointed: bool = False, accumulates: bool = False) -> Stage:
    torch.manual_seed(0)
    denoiser = Denoiser(checkpointed).requires_grad_(False)
    quantize_(denoiser, MinMaxObserver(Grid(4)))
    selection = attach_(denoiser, 2, parts=Parts(inputs=True, biases=True))
    mark_small_biases_(denoiser, ["one"])  # it keeps y for its backward, the other keeps u
    for one in denoiser.parameters():
        one.data.add_(0.3 * torch.randn_like(one))
    return denoiser, selection, Graphs(denoiser, selection, accumulates)


def call(denoiser: nn.Module, selection: SetSelection, sets: list[int], seed: int, **more: Any) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    selection.choose(torch.tensor(sets))
    given = (torch.randn(len(sets), 6, generator=draw), torch.arange(len(sets)))
    y: Tensor = denoiser(*given, text=torch.randn(len(sets), 6, generator=draw), **more)[0]
    return y


def test_a_replay_has_new_inputs_new_sets_and_new_parameters(
    parts: Stage,
) -> None:
    denoiser, selection, graphs = parts
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
    assert len(graphs.found) == 1


def test_a_graph_keeps_what_layers_keep_on_a_gpu(parts: Stage) -> None:
    denoiser, selection, _ = parts
    selection.choose(torch.tensor([1, 2]))
    keeps_y = []
    for layer in (denoiser.one, denoiser.two):
        saved: dict[int, Tensor] = {}
        with saved_tensors_hooks(lambda one, saved=saved: saved.setdefault(id(one), one), lambda one: one):  # type: ignore[misc]
            y = layer(torch.randn(2, layer.in_features))
        keeps_y.append(any(torch.equal(one, y) for one in saved.values()))
    assert keeps_y == [True, False]


def test_every_kind_of_call_has_a_graph_of_its_own(parts: Stage) -> None:
    denoiser, selection, graphs = parts
    with graphs.replayed():
        call(denoiser, selection, [1], 0).sum().backward()
        call(denoiser, selection, [1, 1], 0).sum().backward()
        assert torch.equal(call(denoiser, selection, [1], 0), -call(denoiser, selection, [1], 0, negative=True))
        with torch.no_grad():
            first = call(denoiser, selection, [2], 1)
            kept = first.clone()
            call(denoiser, selection, [2], 2)
        assert torch.equal(first, kept)  # a later call of the kind does not write over it
    assert len(graphs.found) == 4
    assert "forward" not in vars(denoiser)


def test_a_second_forward_before_the_backward_is_refused(
    parts: Stage,
) -> None:
    denoiser, selection, graphs = parts
    with graphs.replayed():
        first = call(denoiser, selection, [1], 0)
        call(denoiser, selection, [2], 0)
        with pytest.raises(RuntimeError, match="before its next forward"):
            first.sum().backward()


def test_a_set_that_layers_do_not_have_is_refused(parts: Stage) -> None:
    denoiser, selection, graphs = parts
    with graphs.replayed():
        call(denoiser, selection, [1], 0)
        with pytest.raises(RuntimeError, match="3"):
            call(denoiser, selection, [3], 0)


def test_parameters_that_moved_are_captured_again(parts: Stage) -> None:
    denoiser, selection, graphs = parts
    with graphs.replayed():
        call(denoiser, selection, [1], 0)
        gain: Any = denoiser.two.gain_out
        gain.data = gain.data.clone()
        call(denoiser, selection, [1], 0)
    assert len(graphs.found) == 2


def test_a_network_in_another_mode_is_captured_again(parts: Stage) -> None:
    denoiser, selection, graphs = parts
    with graphs.replayed():
        call(denoiser, selection, [1], 0)
        denoiser.eval()
        call(denoiser, selection, [1], 0)
    assert len(graphs.found) == 2


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
    parts: Stage,
) -> None:
    denoiser, selection, _ = parts
    replays = ReplayGraphs(denoiser, selection)
    replays.graphs = Graphs(denoiser, selection)
    replays.on_train_batch_start(*on_a_card(), None, 0)
    call(denoiser, selection, [1], 0).sum().backward()
    replays.on_train_batch_end(*on_a_card())
    graph = weakref.ref(next(iter(replays.graphs.found.values())).replay)
    replays.teardown(*on_a_card(), "fit")
    assert graph() is None


@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("pull", [0, 1])
@pytest.mark.parametrize("each", [1, 2])
def test_a_training_learns_the_same_bits(parts: Stage, each: int, pull: int, checkpointed: bool) -> None:
    """With a teacher, clipping in place, EMA, accumulated gradients, a learned text; a pull adds to gradients."""
    learned = []
    for replays in (False, True):
        denoiser, selection, graphs = made(checkpointed, each > 1)
        numbers = [one for one in denoiser.parameters() if one.requires_grad]
        text = torch.ones(1, 6, requires_grad=True)
        optimizer, average = torch.optim.AdamW([*numbers, text], lr=0.1), Average(numbers, 0.9)
        distance = distance_from_start(numbers)
        for number in range(4 * each):
            draw = torch.Generator().manual_seed(number)
            x, t = torch.randn(3, 6, generator=draw), torch.randint(9, (3,), generator=draw)
            with graphs.replayed() if replays else nullcontext():
                with torch.no_grad():
                    selection.choose(torch.zeros(3, dtype=torch.int64))
                    untuned = denoiser(x, t, text=x)[0]
                selection.choose(torch.randint(3, (3,), generator=draw))
                y = denoiser(x, t, text=2 * text.expand(3, 6))[0]
                loss = (y - untuned).square().mean()
                (loss + distance() if pull else loss).backward()
            if (number + 1) % each == 0:
                nn.utils.clip_grad_norm_([*numbers, text], 0.5)
                optimizer.step()
                average.update_()
                optimizer.zero_grad()
        learned.append([one.detach().clone() for one in (*numbers, text, *average.tensors.values())])
        assert len(graphs.found) == 2 * replays
    for eager, replayed in zip(*learned, strict=True):
        assert torch.equal(eager, replayed)


def test_a_denoiser_that_looks_at_a_value_is_refused_with_the_option(parts: Stage) -> None:
    denoiser, selection, graphs = parts
    denoiser.block = lambda x: x if bool(x.sum() > 0) else -x  # type: ignore[method-assign]
    with graphs.replayed(), pytest.raises(UserError, match="resources.cuda_graphs=false"):
        call(denoiser, selection, [1], 0)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
    ],
)
def test_a_full_card_is_told_as_such_and_not_as_a_graph_that_fails(parts: Stage, error: RuntimeError) -> None:
    denoiser, selection, graphs = parts
    graphs.capture = Mock(side_effect=error)
    with graphs.replayed(), pytest.raises(type(error)) as raised:
        call(denoiser, selection, [1], 0)
    assert raised.value is error
