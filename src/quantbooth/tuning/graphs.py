"""CUDA graphs of the denoiser's forward and backward in training steps.

A step at batch 1 launches thousands of kernels of a few microseconds each, so a GPU waits for Python. A graph records
them once, with all their addresses, and replays them in one launch; the same kernels run in the same order, so nothing
is computed differently. There is one graph for every kind of call: shapes, dtypes, what has gradients, autocast.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from quantbooth.quant.selection import SetSelection
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.limits import is_out_of_memory

__all__ = ["Graphs", "ReplayGraphs"]

WARMUPS = 2
Capture = Callable[..., Any]


class _Call(nn.Module):
    """A denoiser's call with tensors as its only arguments; the first is the choice of sets, which layers read."""

    def __init__(self, denoiser: nn.Module, leaves: Sequence[Any], spec: TreeSpec) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.leaves = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.spec = spec

    def forward(self, _choice: Tensor, *tensors: Tensor) -> Any:
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = tree_unflatten(leaves, self.spec)
        return type(self.denoiser).forward(self.denoiser, *args, **kwargs)  # the instance's one replays


@dataclass
class _Graph:
    """A captured call, the number of sets its layers have, and how often its forward was replayed."""

    replay: Callable[..., Any]
    sets: int | None
    replays: int = 0

    def require(self, replay: int) -> None:
        """Raise RuntimeError when the forward was replayed again, over the activations of this one."""
        if self.replays != replay:
            raise RuntimeError("the backward of a graph must come before its next forward")


class Graphs:
    """The graphs of one denoiser.

    Args:
        denoiser: on a CUDA device when it is called; its pre-hooks (the router) run before a graph.
        selection: the choice of sets that its layers read.
        accumulates: whether gradients of several steps are added up; a graph overwrites those it returned.
        capture: `torch.cuda.make_graphed_callables`.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        selection: SetSelection | None,
        accumulates: bool = False,
        capture: Capture = torch.cuda.make_graphed_callables,
    ) -> None:
        self.denoiser, self.selection, self.capture = denoiser, selection, capture
        self.found: dict[Any, _Graph] = {}
        self.trained = [one for one in denoiser.parameters() if one.requires_grad]
        for one in self.trained if accumulates else ():
            one.register_hook(torch.clone)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Replay the denoiser's calls inside the block."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def start(self) -> None:
        """Replay the denoiser's calls from now on."""
        self.denoiser.__dict__["forward"] = self._forward

    def stop(self) -> None:
        """Compute the denoiser's calls as they are written."""
        self.denoiser.__dict__.pop("forward", None)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        choice = tensors[0].new_zeros(1) if self.selection is None else self.selection.choice
        given = (choice, *tensors)
        others = tuple(leaf for leaf in leaves if not isinstance(leaf, Tensor))
        modes = (torch.is_grad_enabled(), self.denoiser.training)
        key = (_kind(given), others, str(spec), modes, *(one.data_ptr() for one in self.trained))
        graph = self.found.get(key)
        if graph is None:
            graph = self.found[key] = self._captured(_Call(self.denoiser, leaves, spec), given)
        if self.selection is not None and graph.sets is not None:
            self.selection.checked(len(choice), graph.sets)
        graph.replays += 1
        made = graph.replay(*given)
        outputs, form = tree_flatten(made)
        if not torch.is_grad_enabled():  # another call of this kind may come before they are read
            return tree_unflatten([one.clone() for one in outputs], form)
        replay = graph.replays
        for one in outputs:
            if one.requires_grad:
                one.register_hook(lambda _, graph=graph, replay=replay: graph.require(replay))
        return made

    def _captured(self, call: _Call, given: Sequence[Tensor]) -> _Graph:
        static = tuple(one.detach().clone().requires_grad_(one.requires_grad) for one in given)
        chosen = nullcontext() if self.selection is None else self.selection.fixed(static[0])
        try:
            with _uncached_autocast(), chosen:
                replay = self.capture(call, static, num_warmup_iters=WARMUPS, allow_unused_input=True)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise UserError(
                f"this device cannot record the denoiser as a graph ({str(error).splitlines()[0]}); "
                "choose resources.cuda_graphs=false"
            ) from error
        return _Graph(replay, None if self.selection is None else self.selection.sets)


def _kind(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    device = tensors[-1].device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return (autocast, *((one.shape, one.stride(), one.dtype, one.device, one.requires_grad) for one in tensors))


def _uncached_autocast() -> AbstractContextManager[Any]:
    """Keep autocast as it is, without its cache, whose tensors a graph would lose."""
    if not torch.is_autocast_enabled("cuda"):
        return nullcontext()
    return torch.autocast("cuda", torch.get_autocast_dtype("cuda"), cache_enabled=False)


class ReplayGraphs(Callback):
    """Replays graphs in training steps on a CUDA device, and only there: previews draw other shapes, once.

    The detection of anomalies looks at the values of each operation, which a graph cannot.
    """

    def __init__(self, denoiser: nn.Module, selection: SetSelection | None) -> None:
        self.denoiser, self.selection = denoiser, selection
        self.graphs: Graphs | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if pl_module.device.type != "cuda" or torch.is_anomaly_enabled():
            return
        if self.graphs is None:
            self.graphs = Graphs(self.denoiser, self.selection, trainer.accumulate_grad_batches > 1)
        self.graphs.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Free the graphs now: each holds the activations of a step, and the next training has its own."""
        self._stop()
        self.graphs = None
        gc.collect()  # PyTorch keeps a graph in a cycle

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.graphs is not None:
            self.graphs.stop()
