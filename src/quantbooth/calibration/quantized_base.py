"""The quantized base on disk: packed codes, scales, zero points, and the float norms and biases of a denoiser.

With quantized activations, their scales and zero points are among the denoiser's tensors; layers.json lists the layers
with quantized inputs, attention.json the quantized attention modules.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from quantbooth.calibration.quantized_attention import AttentionRecord, Bits, as_records, empty_attention_, from_records
from quantbooth.diffusion.pretrained import empty_denoiser
from quantbooth.diffusion.weights import require_finite
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.surgery import Replaced, empty_like_, to_json
from quantbooth.runtime.errors import UserError
from quantbooth.store.documents import read_as, read_tensors

__all__ = ["WEIGHTS", "read_quantized_denoiser", "read_records", "write_blocks", "write_quantized_denoiser"]

WEIGHTS = "denoiser.safetensors"
LAYERS = "layers.json"
BLOCKS = "blocks.json"
ATTENTION = "attention.json"


def write_quantized_denoiser(
    folder: Path, denoiser: nn.Module, replaced: list[Replaced], attention: Bits | None = None
) -> None:
    """Write the denoiser's tensors, and the lists of its quantized layers and attention modules."""
    save_file({name: tensor.contiguous() for name, tensor in denoiser.state_dict().items()}, folder / WEIGHTS)
    (folder / LAYERS).write_text(json.dumps(to_json(replaced), indent=1))
    if attention:
        (folder / ATTENTION).write_text(json.dumps(as_records(attention), indent=1))


def read_records(folder: Path) -> list[Replaced]:
    """Return the list of quantized layers."""
    found: list[Replaced] = read_as(list[Replaced], folder / LAYERS)
    return found


def write_blocks(folder: Path, blocks: Sequence[Mapping[str, Any]]) -> None:
    """Write the errors of each learned block; without any, write nothing."""
    if blocks:
        (folder / BLOCKS).write_text(json.dumps(list(blocks), indent=1))


def read_quantized_denoiser(folder: Path, base_folder: Path) -> nn.Module:
    """Return a quantized denoiser: architecture from the base, tensors from here; float weights are never allocated.

    Raises:
        UserError: when the architecture differs from the quantized one, or an older version made the folder.
    """
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} must hold {WEIGHTS}, found none; remove that folder and calibrate again")
    denoiser = empty_denoiser(base_folder)
    empty_like_(denoiser, read_records(folder))
    if (folder / ATTENTION).is_file():
        empty_attention_(denoiser, from_records(read_as(list[AttentionRecord], folder / ATTENTION)))
    state = read_tensors(folder / WEIGHTS)
    require_finite(state, str(folder / WEIGHTS))
    try:
        denoiser.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise UserError(f"{folder} is not a quantization of the base in {base_folder}: {first}") from error
    for name, layer in quantized_layers(denoiser):
        if layer.scale.min() <= 0:
            raise UserError(f"{folder / WEIGHTS}: scales must be > 0, found {float(layer.scale.min()):.4g} in {name}")
    return denoiser.eval().requires_grad_(False)
