"""Writes the tiny base with a denoiser that another package quantized, by diffusers' own writing; reads its weights.

`FORMATS` names them; each needs its package, which a test skips without.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import BitsAndBytesConfig, TorchAoConfig
from diffusers.models.model_loading_utils import load_model_dict_into_meta
from diffusers.quantizers.auto import DiffusersAutoQuantizer
from torch import Tensor

from experiments.reliability.tiny import TINY
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import save_base
from quantbooth_toyworld.captions import words
from quantbooth_toyworld.models import new_denoiser, untrained_base

WIDE = {**TINY, "block_out_channels": (32,)}
"""Groups and blocks of packages have 32 inputs or more."""

FORMATS = {
    "nf4": "bitsandbytes",
    "int8": "bitsandbytes",
    "torchao_int8": "torchao",
    "torchao_int4": "torchao",
    "sdnq": "sdnq",
    "gguf": "gguf",
}
"""Formats and their packages."""
WITHOUT_GRADIENT = {"torchao_dynamic": "torchao", "sdnq_matmul": "sdnq"}
"""Formats whose layers give their inputs no gradient: products of whole numbers."""


def write_stored(folder: Path, kind: str, base: Base | None = None) -> Path:
    """Write a base, by default the tiny one, in a format; skip the test where its package is not installed."""
    package = {**FORMATS, **WITHOUT_GRADIENT}[kind]
    pytest.importorskip(package, reason=f"{package} is not installed")
    if base is None:
        torch.manual_seed(0)
        base = replace(untrained_base(words(), seed=0), denoiser=new_denoiser(WIDE))
    save_base(base, folder, torch.float32)
    network, part = base.family.denoiser_class, folder / base.component
    if kind == "gguf":
        (part / "diffusion_pytorch_model.safetensors").unlink()
        write_gguf(part / "denoiser.gguf", base.denoiser.state_dict())
        return folder
    made = (_by_bitsandbytes if package == "bitsandbytes" else _by_diffusers)(network, part, kind)
    shutil.rmtree(part)
    made.save_pretrained(part)
    return folder


def _by_bitsandbytes(network: Any, part: Path, kind: str) -> Any:
    """Quantize as `from_pretrained` does, which wants a GPU to begin with."""
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    config = BitsAndBytesConfig(**(four if kind == "nf4" else {"load_in_8bit": True}))
    quantizer: Any = DiffusersAutoQuantizer.from_config(config, pre_quantized=False)
    state = network.from_pretrained(part).state_dict()
    with init_empty_weights():
        made = network.from_config(network.load_config(part))
    quantizer.preprocess_model(made, device_map=None, keep_in_fp32_modules=[])
    cpu = {"": torch.device("cpu")}
    load_model_dict_into_meta(made, state, dtype=torch.float32, hf_quantizer=quantizer, device_map=cpu)
    quantizer.postprocess_model(made)
    made.hf_quantizer = quantizer
    made.register_to_config(quantization_config=config)
    return made


def _by_diffusers(network: Any, part: Path, kind: str) -> Any:
    """Quantize by `from_pretrained`, in the precision in which each package's models are published."""
    if kind.startswith("sdnq"):
        of_sdnq = {"weights_dtype": "uint4", "quant_conv": True, "minimum_allowed_numel": 0}
        if kind == "sdnq_matmul":
            of_sdnq |= {"weights_dtype": "int8", "use_quantized_matmul": True, "quant_conv": False}
        config = pytest.importorskip("sdnq").SDNQConfig(**of_sdnq)
        return network.from_pretrained(part, quantization_config=config, torch_dtype=torch.float32)
    ao, four = pytest.importorskip("torchao.quantization"), torch.int4  # type: ignore[attr-defined]
    weights = {
        "torchao_int8": lambda: ao.Int8WeightOnlyConfig(version=2),
        "torchao_int4": lambda: ao.IntxWeightOnlyConfig(four, ao.PerGroup(32)),
        "torchao_dynamic": lambda: ao.Int8DynamicActivationInt8WeightConfig(version=2),
    }
    config = TorchAoConfig(weights[kind]())
    return network.from_pretrained(part, quantization_config=config, torch_dtype=torch.bfloat16)


def write_gguf(file: Path, state: Mapping[str, Tensor], others: str = "F32") -> None:
    """Write weights with 32 inputs or more in Q4_0 or Q8_0, in turn, and the others in F32 or BF16."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    writer = gguf.GGUFWriter(str(file), "any")
    kinds = (gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0)
    for number, (name, tensor) in enumerate(state.items()):
        numbers, kind = tensor.numpy(), kinds[number % 2]
        if numbers.ndim == 2 and numbers.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
        else:
            kind = gguf.GGMLQuantizationType[others]
            writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def dequantized(layer: Any, kind: str) -> Tensor:
    """Return the weight of a layer in float32, by its package's own function, not by its forward."""
    return WEIGHTS[FORMATS[kind]](layer).detach().float()


def _of_bitsandbytes(layer: Any) -> Tensor:
    functional = pytest.importorskip("bitsandbytes.functional")
    if hasattr(layer.weight, "SCB"):
        scale = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
        codes = layer.weight.data if layer.state.CB is None else layer.state.CB
        return functional.int8_vectorwise_dequant(codes, scale)
    return functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def _of_sdnq(layer: Any) -> Tensor:
    numbers = pytest.importorskip("sdnq.utils").get_sdnq_params(layer)
    weight: Tensor = layer.sdnq_dequantizer(**numbers)
    return weight


def _of_gguf(layer: Any) -> Tensor:
    gguf, weight = pytest.importorskip("gguf"), layer.weight
    return torch.from_numpy(gguf.quants.dequantize(weight.as_tensor().numpy(), weight.quant_type))


WEIGHTS: dict[str, Callable[[Any], Tensor]] = {
    "bitsandbytes": _of_bitsandbytes,
    "torchao": lambda layer: layer.weight.dequantize(),
    "sdnq": _of_sdnq,
    "gguf": _of_gguf,
}
