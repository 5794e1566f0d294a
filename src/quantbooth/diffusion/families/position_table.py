"""Stable Diffusion 3's table of position embeddings, kept in the CPU's memory: the device has the crop that is added.

table [1, n n, d]   of all places, n = pos_embed_max_size: 0.91 GB of Stable Diffusion 3.5 medium in float32
crop  [1, h w, d]   of the h x w in its middle, as many as latents have patches: 0.03 GB at 1024 pixels
"""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from diffusers.models.embeddings import PatchEmbed
from torch import Tensor

__all__ = ["keep_table_on_cpu_"]

TABLE = "pos_embed"
"""Its name in the state dict of diffusers' `PatchEmbed`, where it is a buffer."""


class _CroppedPatchEmbed(PatchEmbed):
    """Diffusers' `PatchEmbed`, of the same state dict, whose table stays on the CPU; the last crop is kept."""

    pos_embed: Tensor
    crops: dict[tuple[int, int, torch.device], Tensor]

    def cropped_pos_embed(self, height: int, width: int) -> Tensor:
        """Return the crop for latents of this size, on the device of the other weights."""
        wanted = height, width, next(chain(self.parameters(), self.buffers())).device
        if wanted not in self.crops:
            self.crops = {wanted: super().cropped_pos_embed(height, width).to(wanted[-1])}
        return self.crops[wanted]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.pos_embed = self.pos_embed.to(fn(self.pos_embed.new_empty(0)).dtype)  # `fn` may also move it
        self.crops = {}
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + TABLE] = self.pos_embed

    def _load_from_state_dict(self, *args: Any) -> None:
        self._buffers[TABLE] = self.pos_embed  # so that PyTorch checks and reads it
        super()._load_from_state_dict(*args)
        self.pos_embed, self.crops = self._buffers.pop(TABLE), {}


def keep_table_on_cpu_(places: PatchEmbed) -> None:
    """Let the table stay where it is, on the CPU, when the network moves; unless that is so already."""
    if not isinstance(places, _CroppedPatchEmbed):
        table = places._buffers.pop(TABLE)
        places.__class__ = _CroppedPatchEmbed
        places.pos_embed, places.crops = table, {}
