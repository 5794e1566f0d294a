"""The scale set of each sample: one `SetSelection` per model, and the parameters from which it picks a row per sample.

All layers of a model share one `SetSelection`. It has one integer per sample: 0 is the base (gain 1), k >= 1 is set k;
or K shares per sample, the parts of each set's step from the base that are added up:

    row of a sample = start + sum_k share_k (values_k - start)

Choose before the forward, and do not change it before the backward has finished: activation checkpointing reads it
again there, and the backward raises when the choice is another.

A module with scale sets has a `selection` and these parameters, None for those it does not use:

    gain_in      [K, in]     relative, starts at 1: multiplies a layer's input channels
    gain_out     [K, out]    relative, starts at 1: multiplies output channels
    gain_groups  [K, n out]  in place of gain_out: one per output channel and group of inputs (see `group_gains`)
    shift        [K, out]    additive, starts at 0: adds to output channels

Row k - 1 is set k. Set 0 is the base, with the initial values, and is not stored.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from quantbooth.quant.kernels.choice import fused_for
from quantbooth.runtime.devices import holds

__all__ = ["INITIAL_VALUES", "SetSelection", "selected_rows", "registered_sets", "register_sets_", "unregister_sets_"]


NOTHING = math.inf
Choice = Int64[Tensor, " b"] | Float[Tensor, "b sets"]
"""The set of every sample, or the share of every set in every sample."""


class SetSelection:
    """The set index of every sample, or its shares of all sets, chosen once per step by the caller.

    A deep copy of a model shares the SetSelection of the original, so one choice applies to both; a copied SetSelection
    would silently keep a stale choice.
    """

    def __init__(self) -> None:
        self._choice: Tensor | None = None
        self._forward: Tensor | None = None
        self._again: Tensor | None = None
        self._fits = NOTHING
        self._sets: int | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "SetSelection":
        return self

    def choose(self, choice: Choice) -> None:
        """Use set choice[i] for sample i from now on, or share choice[i, k - 1] of set k; the tensor is copied.

        Raises:
            ValueError: when it is neither a non-empty int64 vector of numbers >= 0 nor a non-empty float matrix of
                finite numbers.
        """
        got = f"got {choice.dtype} of shape {tuple(choice.shape)}"
        if choice.is_floating_point():
            rule = "shares must be a non-empty matrix of finite numbers"
            if choice.ndim != 2 or choice.numel() == 0 or not holds(choice.isfinite().all(), rule):
                raise ValueError(f"{rule}, {got}")
        elif choice.dtype != torch.int64 or choice.ndim != 1 or choice.numel() == 0:
            raise ValueError(f"index must be a non-empty int64 vector, {got}")
        elif not holds((choice >= 0).all(), rule := "index must be >= 0 (0 = base)"):
            raise ValueError(f"{rule}, got {int(choice.min())}")
        self._choice, self._again, self._fits = choice.detach().clone(), None, NOTHING

    @contextmanager
    def fixed(self, choice: Choice) -> Iterator[None]:
        """Use this tensor itself inside the block, without looking at it: a CUDA graph reads what it holds later."""
        before, self._choice, self._fits = (self._choice, self._fits), choice, 0
        try:
            yield
        finally:
            self._choice, self._fits = before

    @property
    def sets(self) -> int | None:
        """The number of sets of the layer that asked last; None where none has."""
        return self._sets

    def clear(self) -> None:
        """Clear the choice, so that the next forward raises instead of using it."""
        self._choice = None

    @property
    def choice(self) -> Choice:
        """The set index of every sample, or its shares of all sets.

        Raises:
            RuntimeError: when nothing was chosen.
        """
        if self._choice is None:
            raise RuntimeError(
                "a set must be chosen for every sample before the forward: call SetSelection.choose(index)"
            )
        return self._choice

    def checked(self, batch: int, sets: int) -> Choice:
        """Return the choice after checking it against a layer's `batch` samples and `sets` sets.

        Raises:
            RuntimeError: when nothing was chosen, for another batch size, a set that the layer does not have, or shares
                of another number of sets.
        """
        choice, traced = self.choice, torch.compiler.is_compiling()
        if not traced:  # a graph changes nothing outside of it
            self._sets = sets
        if len(choice) != batch:
            raise RuntimeError(f"the selection must cover the batch: chosen for {len(choice)} samples, got {batch}")
        if choice.ndim == 2:
            if choice.shape[1] != sets:
                raise RuntimeError(f"the selection must have shares of {sets} sets, got {choice.shape[1]}")
        elif traced or sets < self._fits:  # not looked at again for the other layers
            if not holds((choice <= sets).all(), rule := f"the selection must name sets in [0, {sets}]"):
                raise RuntimeError(f"{rule}, got {int(choice.max())}")
            if not traced:
                self._fits = sets
        return choice

    def guarded(self, made: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Return what a forward made by this choice; its backward raises where it was recomputed by another one.

        A graph of `torch.compile` recomputes by the choice that it was given, so nothing is looked at there.

        Raises:
            RuntimeError: when it is itself a recomputation, by another choice than the last forward's.
        """
        if torch.compiler.is_compiling():
            return made
        choice = self.choice
        if torch._C._current_graph_task_id() == -1:
            self._forward = choice
        else:  # in a backward: activation checkpointing computes again
            self._again = choice
            self._require_again(self._forward)
        if made.requires_grad:
            made.register_hook(lambda _: self._require_again(choice))
        return made

    def _require_again(self, choice: Tensor | None) -> None:
        """Raise when activations were computed again by another choice than this one."""
        again = self._again
        if choice is None or again is None or again is choice:
            return
        if again.shape != choice.shape or not torch.equal(again, choice):
            raise RuntimeError("sets must not be chosen anew before the backward with activation checkpointing")


INITIAL_VALUES = {"gain_in": 1.0, "gain_out": 1.0, "gain_groups": 1.0, "shift": 0.0}


def register_sets_(
    module: nn.Module, sizes: Mapping[str, int], count: int, selection: SetSelection, device: torch.device
) -> None:
    """Register parameters for `count` sets with the initial values (float32, trainable), chosen by `selection`.

    Args:
        module: gets the parameters.
        sizes: sizes of one set's parameters, by name; the others are None.
        count: K.
        selection: shared by the whole model.
        device: of the parameters.
    """
    for name, start in INITIAL_VALUES.items():
        size = sizes.get(name)
        values = None if size is None else nn.Parameter(torch.full((count, size), start, device=device))
        module.register_parameter(name, values)
    module.selection = selection  # type: ignore[assignment]


def unregister_sets_(module: nn.Module) -> None:
    """Remove the parameters of the sets and the selection."""
    for name in INITIAL_VALUES:
        module.register_parameter(name, None)
    module.selection = None  # type: ignore[assignment]


def registered_sets(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a module's sets, by name."""
    own = dict(module.named_parameters(recurse=False))
    return {name: own[name] for name in INITIAL_VALUES if name in own}


def selected_rows(module: nn.Module, name: str, batch: int) -> Float[Tensor, "b n"] | None:
    """Return a row per sample: that of its set, or the initial value plus the shares of all steps from it.

    None without this parameter. Shares multiply elementwise, as a matrix product would be rounded under autocast.

    Raises:
        RuntimeError: when the selection is unset, or does not fit the batch or the sets.
    """
    values: Tensor | None = getattr(module, name)
    if values is None:
        return None
    if module.selection is None:
        raise RuntimeError("a layer with gains must have a selection: put both in with scale_sets.attach_")
    selection: SetSelection = module.selection  # type: ignore[assignment]
    choice, start = selection.checked(batch, len(values)), INITIAL_VALUES[name]
    if choice.is_floating_point():
        return selection.guarded(start + (choice.to(values)[:, :, None] * (values - start)).sum(dim=1))
    if fused_for(values) is not None:
        return selection.guarded(_Selected.apply(values, choice.to(values.device), start))
    return selection.guarded(torch.cat([values.new_full((1, values.shape[1]), start), values])[choice])


class _Selected(torch.autograd.Function):
    """The row of each sample's set by one kernel; indexing on a GPU sorts the choice in every layer's backward."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, choice: Tensor, start: float) -> Tensor:
        ctx.save_for_backward(choice)
        ctx.sets, ctx.kernels = len(values), fused_for(values)
        rows: Tensor = ctx.kernels.select(values, choice, start)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, drows: Tensor) -> tuple[Tensor, None, None]:
        (choice,) = ctx.saved_tensors
        return ctx.kernels.select_gradient(drows, choice, ctx.sets), None, None
