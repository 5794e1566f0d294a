"""A tuned base as a folder that plain diffusers loads: float weights, a unet for each zone where there are several."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from quantbooth.diffusion import by_zone
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.identifier import LearnedRows
from quantbooth.diffusion.lora_names import to_peft
from quantbooth.diffusion.pretrained import new_unet, save_base
from quantbooth.diffusion.told import tell_sizes_

__all__ = ["MAIN", "Unets", "float_unet", "write_lora", "write_pipeline", "write_unet"]

MAIN = "unet"
"""Folder of the unet that a pipeline has by itself."""
LORA = "pytorch_lora_weights.safetensors"
"""As diffusers calls a LoRA file."""

Unets = Mapping[str, Callable[[], Mapping[str, Tensor]]]
"""What makes the weights of each unet when they are needed, by its folder; so one is in memory at a time."""


def float_unet(base: Base, state: Mapping[str, Tensor]) -> Any:
    """A float unet of the base's architecture with these weights, frozen; none but theirs is ever made."""
    with torch.device("meta"):
        unet = new_unet(dict(base.unet.config))
    unet.load_state_dict(dict(state), strict=True, assign=True)
    tell_sizes_(unet, base.tokenizer.model_max_length)
    return unet.eval().requires_grad_(False)


def write_pipeline(
    base: Base,
    unets: Unets,
    zones: Sequence[tuple[int, int, str]],
    folder: Path,
    dtype: torch.dtype,
) -> None:
    """Write a diffusers pipeline folder.

    Args:
        base: gives all parts but unets; a learned identifier becomes a plain row of its token embedding.
        unets: one is MAIN.
        zones: (first timestep, timestep after the last, folder) for all timesteps; of use with several unets.
        folder: to write into.
        dtype: of all weights.
    """
    plain = replace(base, text_encoder=_folded_rows(base.text_encoder))
    save_base(plain.with_unet(float_unet(base, unets[MAIN]())), folder, dtype)
    for name in unets.keys() - {MAIN}:
        unet = float_unet(base, unets[name]()).to(dtype)
        unet.register_to_config(_name_or_path="")
        unet.save_pretrained(str(folder / name), safe_serialization=True)
    if len(unets) > 1:
        (folder / by_zone.ZONES).write_text(json.dumps([list(row) for row in zones]), encoding="utf-8")
        shutil.copyfile(by_zone.__file__, folder / Path(by_zone.__file__).name)


def write_unet(state: Mapping[str, Tensor], folder: Path, dtype: torch.dtype) -> None:
    """Write the weights of a unet as one file with diffusers' names."""
    kept = {
        name: tensor.to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in state.items()
    }
    save_file(kept, folder / f"{MAIN}.safetensors", metadata={"format": "pt"})


def write_lora(sets: Mapping[str, Tensor], folder: Path, dtype: torch.dtype) -> None:
    """Write one set of adapters as the file that `load_lora_weights` looks for.

    Raises:
        UserError: when there are several sets.
    """
    kept = {name: tensor.to(dtype) for name, tensor in to_peft(sets).items()}
    save_file(kept, folder / LORA, metadata={"format": "pt"})


def _folded_rows(text_encoder: Any) -> Any:
    """The same text encoder with the learned rows of tokens among all others."""
    embedding = text_encoder.get_input_embeddings()
    if not isinstance(embedding, LearnedRows):
        return text_encoder
    made = deepcopy(text_encoder)
    rows = made.get_input_embeddings()
    with torch.no_grad():
        rows.embedding.weight[rows.get_buffer("tokens")] = rows.rows.to(rows.embedding.weight.dtype)
    made.set_input_embeddings(rows.embedding)
    return made
