"""The quantized base on disk: packed codes, scales and zero points of a denoiser, beside its float norms and biases.

Where activations are quantized too, their scales and zero points lie with the denoiser's tensors; which layers quantize
what they are given is said in layers.json, which attention modules their products and softmax in attention.json.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from quantbooth.calibration.quantized_attention import Bits, as_records, empty_attention_, from_records
from quantbooth.diffusion.pretrained import empty_denoiser
from quantbooth.quant.surgery import Replaced, empty_like_, from_json, to_json
from quantbooth.runtime.errors import UserError

__all__ = ["WEIGHTS", "read_quantized_denoiser", "write_blocks", "write_quantized_denoiser"]

WEIGHTS = "denoiser.safetensors"
LAYERS = "layers.json"
BLOCKS = "blocks.json"
ATTENTION = "attention.json"


def write_quantized_denoiser(
    folder: Path, denoiser: nn.Module, replaced: list[Replaced], attention: Bits | None = None
) -> None:
    """The denoiser's tensors as they lie in memory, and which layers and attention modules are quantized."""
    save_file({name: tensor.contiguous() for name, tensor in denoiser.state_dict().items()}, folder / WEIGHTS)
    (folder / LAYERS).write_text(json.dumps(to_json(replaced), indent=1))
    if attention:
        (folder / ATTENTION).write_text(json.dumps(as_records(attention), indent=1))


def write_blocks(folder: Path, blocks: Sequence[Mapping[str, Any]]) -> None:
    """The errors of every block of which anything was learned; nothing where none was."""
    if blocks:
        (folder / BLOCKS).write_text(json.dumps(list(blocks), indent=1))


def read_quantized_denoiser(folder: Path, base_folder: Path) -> nn.Module:
    """A quantized denoiser whose float weights are never made: architecture from the base, tensors from here.

    Raises:
        UserError: when the architecture is not the one that was quantized, or the folder was made by an older version.
    """
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} must hold {WEIGHTS}, found none; remove that folder and calibrate again")
    denoiser = empty_denoiser(base_folder)
    empty_like_(denoiser, from_json(json.loads((folder / LAYERS).read_text())))
    if (folder / ATTENTION).is_file():
        empty_attention_(denoiser, from_records(json.loads((folder / ATTENTION).read_text())))
    try:
        denoiser.load_state_dict(load_file(folder / WEIGHTS), strict=True, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise UserError(f"{folder} is not a quantization of the base in {base_folder}: {first}") from error
    return denoiser.eval().requires_grad_(False)
