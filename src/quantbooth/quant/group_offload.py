"""Group offloading: the codes of blocks stay in the CPU's memory, and the device has those of two blocks at a time.

    a step visits                0 1 ... n-1 forward, then n-1 ... 1 0 backward
    at each visit of a block     the block is sent, unless it is there; then the one that came after it last time

so that from the second step on a block is sent while the one before it computes: by a stream of its own, out of pinned
memory. Where a direction ends two blocks are there with which the other begins: a step sends 2 (n - 2) blocks, and a
prediction without gradient n.

Codes are frozen, so nothing comes back. Gains, scales, zero points, biases and layers outside of blocks stay on the
device. For the backward autograd saves the layer in the place of its codes, and the layer is visited when they are
asked for; activation checkpointing calls the layers again, which visits them too.

The name is that of diffusers' `enable_group_offload` (block level, one block a group, a stream), which is for
inference: it puts a block away after its forward, where the backward then does not find it, and sends parameters out of
a copy made at the start, so that what they learned is lost.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from quantbooth.quant.layers import QuantizedLayer
from quantbooth.runtime.errors import UserError

__all__ = ["GroupOffload", "require_blocks"]

CUDA = "cuda"
"""The kind of device that has streams."""
LEAST = 3
"""Blocks of a denoiser that two on the device are fewer than."""


def require_blocks(count: int) -> None:
    """Check how many blocks have packed codes.

    Raises:
        UserError: when two are not fewer.
    """
    if count < LEAST:
        raise UserError(
            f"resources.group_offload=true needs {LEAST} or more blocks of a denoiser with packed codes, found "
            f"{count}; choose another quant, or resources.group_offload=false"
        )


class _Group:
    """The codes of a block's layers, as one vector of bytes on the CPU of which each layer has a view."""

    def __init__(self, layers: Sequence[QuantizedLayer], pinned: bool) -> None:
        self.layers, self.shapes = tuple(layers), [layer.codes.shape for layer in layers]
        stored = torch.cat([layer.codes.flatten() for layer in layers])
        self.stored = stored.pin_memory() if pinned else stored
        for layer in layers:
            del layer.codes  # no buffer any more, which would move with the denoiser
        self.use_(self.stored)

    def use_(self, stored: UInt8[Tensor, " bytes"]) -> None:
        """Let the layers read their codes from this copy of the vector."""
        parts = stored.split([shape.numel() for shape in self.shapes])
        for layer, part, shape in zip(self.layers, parts, self.shapes, strict=True):
            layer.codes = part.view(shape)


class GroupOffload:
    """Keeps the codes of a denoiser's blocks on the CPU from now on, and sends them where the denoiser computes.

    Args:
        denoiser: on the CPU, with all its layers.
        blocks: names of its blocks, which do not nest; the order of visits is found when they are called.
        pinned: whether to pin the CPU's memory, as a CUDA device copies from it without waiting.

    Attributes:
        groups: blocks that have codes.

    Raises:
        UserError: when there are too few blocks with packed codes for two to be fewer.
    """

    def __init__(self, denoiser: nn.Module, blocks: Iterable[str], pinned: bool = False) -> None:
        found = [
            [one for one in denoiser.get_submodule(name).modules() if isinstance(one, QuantizedLayer)]
            for name in blocks
        ]
        require_blocks(sum(map(bool, found)))
        self.groups = [_Group(layers, pinned) for layers in found if layers]
        self._of = {layer: group for group in self.groups for layer in group.layers}
        self._after: dict[tuple[_Group, Any], _Group] = {}
        self._calls: list[saved_tensors_hooks] = []
        self._device = torch.device("cpu")
        self._stream: torch.cuda.Stream | None = None
        self._places: list[Tensor] = []
        self._there: list[_Group | None] = [None, None]
        self._here: tuple[_Group, Any] | None = None
        for layer in self._of:
            layer.register_forward_pre_hook(self._before_layer)
        denoiser.register_forward_pre_hook(self._begin)
        denoiser.register_forward_hook(self._end, always_call=True)

    def place_(self, device: torch.device) -> None:
        """Give the device memory for two of the largest blocks, and free that of the last one."""
        for group in self.groups:
            group.use_(group.stored)
        self._device, self._places, self._there, self._here = device, [], [None, None], None
        self._stream = torch.cuda.Stream(device) if device.type == CUDA else None
        if device != self.groups[0].stored.device:
            size = max(len(group.stored) for group in self.groups)
            with torch.inference_mode(False):  # sampling may be first, and training reads them too
                self._places = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2)]

    def visit(self, group: _Group) -> None:
        """Let the layers of a block read their codes on the device, and send the block that should be next."""
        now = (group, torch.is_grad_enabled() if self._calls else "backward")
        if group.layers[0].scale.device != self._device:
            self.place_(group.layers[0].scale.device)
        last, self._here = self._here, now
        if not self._places or (last is not None and last[0] is group):
            return
        place = 1 if last is not None and self._there[0] is last[0] else 0  # not where the last one computes
        if last is not None:
            self._after[last] = group
            last[0].use_(last[0].stored)
        if self._there[place] is not group:
            self._send(group, place)
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        group.use_(self._places[place][: len(group.stored)])
        if (coming := self._after.get(now)) is not None and coming is not self._there[1 - place]:
            self._send(coming, 1 - place)

    def _send(self, group: _Group, place: int) -> None:
        """Copy a block over another one, after all work that the device was given until now."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            self._places[place].record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            self._places[place][: len(group.stored)].copy_(group.stored, non_blocking=True)
        self._there[place] = group

    def _before_layer(self, layer: nn.Module, _: Any) -> None:
        self.visit(self._of[layer])  # type: ignore[index]

    def _begin(self, *_: Any) -> None:
        self._calls.append(saved_tensors_hooks(self._pack, self._unpack))
        self._calls[-1].__enter__()

    def _end(self, *_: Any) -> None:
        self._calls.pop().__exit__()

    def _pack(self, saved: Tensor) -> Any:
        """Return the layer whose codes are saved, or what else is saved."""
        layers = self._here[0].layers if self._here is not None and saved.dtype == torch.uint8 else ()
        return next((layer for layer in layers if layer.codes is saved), saved)

    def _unpack(self, kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        self.visit(self._of[kept])
        return kept.codes
