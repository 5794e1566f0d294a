"""Exported files: a diffusers pipeline with float weights and a denoiser per zone, single files, and the model card."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from safetensors.torch import save_file
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.diffusers_folder import read_json
from quantbooth.diffusion.lora_names import to_peft
from quantbooth.diffusion.pretrained import save_base
from quantbooth.diffusion.weights import cast, cast_module
from quantbooth.export import by_zone
from quantbooth.tuning.files import PRECISIONS as SAVED
from quantbooth.tuning.identifier import LearnedRows

__all__ = ["PRECISIONS", "Denoisers", "float_denoiser", "model_card", "write_lora", "write_pipeline", "write_weights"]

PRECISION = "export.precision"
PRECISIONS = {**SAVED, "bfloat16": torch.bfloat16}
"""In bfloat16 most transformers and their text encoders are published; T5 overflows in float16."""
INDEX = "model_index.json"

LORA = "pytorch_lora_weights.safetensors"
"""The name of a LoRA file in diffusers."""

Denoisers = Mapping[str, Callable[[], Mapping[str, Tensor]]]
"""Folder -> function that returns the weights of its denoiser, so that only one is in memory at a time."""


def float_denoiser(base: Base, state: Mapping[str, Tensor]) -> Any:
    """Return a frozen float denoiser of the base's architecture with these weights; no other weights are allocated."""
    with torch.device("meta"):
        denoiser = base.family.new_denoiser(base.denoiser.config)
    denoiser.load_state_dict(dict(state), strict=True, assign=True)
    return denoiser.eval().requires_grad_(False)


def write_pipeline(
    base: Base,
    denoisers: Denoisers,
    zones: Sequence[tuple[int, int, str]],
    folder: Path,
    dtype: torch.dtype,
) -> None:
    """Write a diffusers pipeline folder.

    Args:
        base: has all parts but the denoisers; a learned identifier becomes a plain row of its token embedding.
        denoisers: by folder; a single one is in the folder of the base's component.
        zones: (first timestep, timestep after the last, folder) for all timesteps; used with several denoisers.
        folder: to write into.
        dtype: of all weights.
    """
    component, (first, *others) = base.component, denoisers
    plain = base.with_text_encoder(_merged_rows(base.text_encoder))
    save_base(plain.with_denoiser(float_denoiser(base, denoisers[first]())), folder, dtype)
    for name in others:
        denoiser = cast_module(float_denoiser(base, denoisers[name]()), dtype, PRECISION)
        denoiser.register_to_config(_name_or_path="")
        denoiser.save_pretrained(str(folder / name), safe_serialization=True)
    if others:  # no denoiser in the component's place: plain from_pretrained would use it for all timesteps
        (folder / component).rename(folder / first)
        index = read_json(folder / INDEX)
        (folder / INDEX).write_text(json.dumps({k: v for k, v in index.items() if k != component}, indent=2))
        about = {"component": component, "zones": [list(row) for row in zones], "time": _time(base)}
        (folder / by_zone.ZONES).write_text(json.dumps(about), encoding="utf-8")
        shutil.copyfile(by_zone.__file__, folder / Path(by_zone.__file__).name)


def _time(base: Base) -> list[float]:
    """Return scale and offset of t = scale * network time - offset, which is so in every family."""
    low, high = (float(base.family.network_time(torch.tensor(t), 1)) for t in (249.0, 749.0))
    scale = 500 / (high - low)
    return [scale, scale * low - 249]


def write_weights(state: Mapping[str, Tensor], component: str, folder: Path, dtype: torch.dtype) -> None:
    """Write the weights of a denoiser as one file in diffusers' format, named after its part of a pipeline."""
    kept = {name: cast(name, tensor, dtype, PRECISION) for name, tensor in state.items()}
    save_file(kept, folder / f"{component}.safetensors", metadata={"format": "pt"})


def write_lora(sets: Mapping[str, Tensor], component: str, folder: Path, dtype: torch.dtype) -> None:
    """Write one set of adapters as a file for `load_lora_weights`.

    Raises:
        UserError: when there are several sets.
    """
    kept = {name: cast(name, tensor, dtype, PRECISION) for name, tensor in to_peft(sets, component).items()}
    save_file(kept, folder / LORA, metadata={"format": "pt"})


def _merged_rows(text_encoder: Any) -> Any:
    """Return the text encoder with the learned token rows merged into its embedding."""
    embedding = text_encoder.get_input_embeddings()
    if not isinstance(embedding, LearnedRows):
        return text_encoder
    made = deepcopy(text_encoder)
    rows = made.get_input_embeddings()
    with torch.no_grad():
        rows.embedding.weight[rows.get_buffer("tokens")] = rows.rows.to(rows.embedding.weight.dtype)
    made.set_input_embeddings(rows.embedding)
    return made


def model_card(**facts: Any) -> str:
    """Return the card in Markdown with metadata for model hubs."""
    environment = Environment(
        loader=PackageLoader("quantbooth.export", "templates"),
        autoescape=False,  # Markdown, not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("card.md.j2").render(version=version("quantbooth"), **facts)
