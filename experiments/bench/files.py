"""How large the files of a method are, to the byte, without writing them.

A safetensors file is 8 bytes of length, a JSON header padded to a multiple of 8, and the numbers.
"""

import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["beside", "file_bytes", "learned"]

LENGTH, STEP = 8, 8
TYPES = {torch.float32: "F32", torch.uint8: "U8", torch.int8: "I8", torch.int64: "I64"}


def learned(model: nn.Module) -> dict[str, Tensor]:
    """What tuning changes, by name: the personal file. Empty where nothing learns."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def beside(model: nn.Module) -> dict[str, Tensor]:
    """What must be there beside the personal file: the base. Empty where everything learns."""
    personal = learned(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in personal}


def file_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the safetensors file of these tensors; 0 for no file."""
    if not tensors:
        return 0
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = len(json.dumps(header, separators=(",", ":")).encode())
    return LENGTH + -(-text // STEP) * STEP + end
