"""Denoisers that another package quantized, read as they are stored: their weights are never dequantized as a whole.

    quantization_config in config.json    bitsandbytes (nf4, fp4, int8), torchao (weights alone), sdnq
    one .gguf file beside config.json     gguf, in names of diffusers or of the original code

Files are data: weights come from safetensors and GGUF, and no class that a file names is looked up. What a package does
not quantize is read in float32, as of any base.
"""

import inspect
import json
import logging
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import GGUFQuantizationConfig
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.models.model_loading_utils import load_gguf_checkpoint, load_model_dict_into_meta
from diffusers.quantizers.auto import DiffusersAutoQuantizer
from safetensors import safe_open
from torch import Tensor, nn

from quantbooth.diffusion.diffusers_folder import read_json, shortened
from quantbooth.diffusion.streamed import weight_files
from quantbooth.diffusion.weights import first_line, readable, require_finite
from quantbooth.quant.stored import stored_layers
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.progress import say

__all__ = ["read_stored", "require_stored", "stored_by", "trainable_"]

SAYS = "quantization_config"
SDNQ, GGUF = "sdnq", "gguf"
METHODS = ("bitsandbytes", "torchao", SDNQ)
"""Of configurations: packages, by the names of their modules. The licence of sdnq keeps it out of our extras."""


def stored_by(folder: Path) -> str | None:
    """Return the package that quantized a denoiser's weights as its folder has them; None for float weights.

    Raises:
        UserError: for another method, or more files than one that have the weights.
    """
    said, files = read_json(folder / "config.json").get(SAYS), sorted(folder.glob(f"*.{GGUF}"))
    others = [*folder.glob("*.safetensors"), *files[1:]]
    if said is None and not files:
        return None
    if files and (others or said is not None):
        more = others[0].name if others else f"{SAYS} in config.json"
        raise UserError(f"{folder} must have its weights once, found {files[0].name} and {more}; remove one of them")
    method = GGUF if files else said.get("quant_method") if isinstance(said, dict) else said
    if method not in (*METHODS, GGUF):
        raise UserError(
            f"{folder}/config.json: quant_method must be {', '.join(METHODS)} to be supported, found "
            f"{shortened(method)}; choose the base before it was quantized"
        )
    return str(method)


def require_stored(folder: Path, as_stored: bool) -> None:
    """Compare a denoiser's folder with quant=as_stored.

    Raises:
        UserError: for quantized weights without it, float weights with it, and where the package is not installed.
    """
    package = stored_by(folder)
    if as_stored and package is None:
        raise UserError(f"quant=as_stored needs quantized weights, those of {folder} are float; choose quant=w4")
    if package is not None and not as_stored:
        raise UserError(
            f"the weights of {folder} are quantized by {package} already; choose quant=as_stored, or the base before "
            "it was quantized"
        )
    if package is not None:
        _require_installed(folder, package)


def _require_installed(folder: Path, package: str) -> None:
    if find_spec(package) is None:
        name = package if package == SDNQ else "'quantbooth[stored]'"
        raise UserError(f"{folder} needs the package {package}; pip install {name}")


def read_stored(kind: Any, folder: Path, package: str) -> Any:
    """Return a denoiser whose layers are the package's, frozen, on the CPU.

    Args:
        kind: diffusers' class.
        folder: of the denoiser.
        package: as `stored_by` gives it.

    Raises:
        UserError: when weights are missing, unknown, of another shape, or not finite, or the package refuses them or is
            not there.
    """
    _require_installed(folder, package)
    with readable(folder):
        if package == GGUF:
            network = _gguf(kind, folder)
        else:
            network = (_torchao if package == "torchao" else _by_quantizer)(kind, folder)
        if lacking := [name for name, one in network.named_parameters() if one.is_meta]:
            raise UserError(f"{folder} lacks {lacking[0]} ({len(lacking)} such); save the whole network")
        if not any(stored_layers(network)):
            raise UserError(f"{folder} must have a quantized layer, found none; choose quant=w4 and float weights")
    return network.requires_grad_(False).eval()


def _gguf(kind: Any, folder: Path) -> Any:
    """Read by diffusers' `from_single_file`, whose layers dequantize weights of Linear alone, and bfloat16 as codes."""
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor  # noqa: PLC0415
    from gguf import GGMLQuantizationType  # noqa: PLC0415

    (file,) = folder.glob(f"*.{GGUF}")
    if not hasattr(kind, "from_single_file"):
        raise UserError(f"{file}: diffusers reads no GGUF of a {kind.__name__}; choose a base of another package")
    state = load_gguf_checkpoint(str(file), return_tensors=True)
    for name, tensor in state.items():
        if getattr(tensor, "quant_type", None) == GGMLQuantizationType.BF16:
            state[name] = dequantize_gguf_tensor(tensor).float()
    require_finite({name: tensor for name, tensor in state.items() if type(tensor) is Tensor}, str(file))
    given = sum(prod(getattr(tensor, "quant_shape", tensor.shape)) for tensor in state.values())
    place = {"config": str(folder.parent), "subfolder": folder.name, "local_files_only": True}
    quantization = GGUFQuantizationConfig(compute_dtype=torch.float32)
    try:
        network = kind.from_single_file(state, quantization_config=quantization, torch_dtype=torch.float32, **place)
    except (SingleFileComponentError, LookupError) as error:  # its converters look for blocks
        raise UserError(f"{file} is no {kind.__name__}: {first_line(error)}; choose another file") from error
    for module in network.modules():
        for name, one in module.named_parameters(recurse=False):
            if hasattr(one, "quant_type") and not (isinstance(module, nn.Linear) and name == "weight"):
                setattr(module, name, nn.Parameter(dequantize_gguf_tensor(one).float()))
    taken = sum(prod(getattr(tensor, "quant_shape", tensor.shape)) for tensor in network.state_dict().values())
    if given > taken:
        say(f"{file} has {given} numbers, {given - taken} more than the {type(network).__name__} in config.json")
    return network


def _by_quantizer(kind: Any, folder: Path) -> Any:
    """Read by diffusers' own quantizer, in the steps of its `from_pretrained`, which wants a GPU for bitsandbytes."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of casts at every call of every layer
    state, _ = _read(folder)
    quantizer: Any = DiffusersAutoQuantizer.from_config(read_json(folder / "config.json")[SAYS])
    quantizer.update_torch_dtype(torch.float32)
    network = _empty(kind, folder)
    quantizer.preprocess_model(network, device_map=None, keep_in_fp32_modules=list(kind._keep_in_fp32_modules or []))
    known = network.state_dict()
    unread = [name for name in state if name not in known]
    cpu = {"": torch.device("cpu")}
    load_model_dict_into_meta(
        network, state, dtype=torch.float32, hf_quantizer=quantizer, device_map=cpu, unexpected_keys=unread
    )
    _require_read(folder, unread)
    made = quantizer.postprocess_model(network)
    for _, layer in stored_layers(made):
        trainable_(layer)
    return made


def trainable_(layer: Any) -> None:
    """Let a layer compute gradients of its input, by the same forward.

    bitsandbytes repacks codes of 4 bits at the first call without gradients, for a kernel of some CPUs that has none;
    sdnq wraps its forward in `torch.no_grad`, which matters where products are of floats, and not of rounded inputs.
    """
    if hasattr(layer, "support_avx512bf16_for_cpu"):
        layer.support_avx512bf16_for_cpu = False
    if hasattr(layer, "sdnq_dequantizer") and not layer.sdnq_dequantizer.use_quantized_matmul:
        layer.forward_func = inspect.unwrap(layer.forward_func)


def _torchao(kind: Any, folder: Path) -> Any:
    """Read by torchao's own reader of safetensors, whose classes are a fixed list; its config.json names any class."""
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict  # noqa: PLC0415

    state, metadata = _read(folder)
    if "tensor_names" not in metadata:
        raise UserError(f"{folder} must say in its safetensors which tensors are torchao's; save it by torchao 0.16")
    names = json.loads(metadata["tensor_names"])
    of_modules = json.dumps([name for name in names if "." in name])  # it reads no names of the network itself
    root = {name: tensor for name, tensor in state.items() if "." not in name}
    inner = {name: tensor for name, tensor in state.items() if "." in name}
    made, unread = unflatten_tensor_state_dict(inner, {**metadata, "tensor_names": of_modules})
    _require_read(folder, list(unread))
    plain = {name: tensor.float() for name, tensor in {**made, **root}.items() if type(tensor) is Tensor}
    network = _empty(kind, folder).requires_grad_(False)
    network.load_state_dict({**made, **plain}, strict=True, assign=True)
    for _, layer in stored_layers(network):
        if (own := layer.weight.dtype) != torch.float32:
            if layer.bias is not None:
                layer.bias.data = layer.bias.data.to(own)
            layer.register_forward_pre_hook(_in_own_precision)
            layer.register_forward_hook(_in_full_precision)
    return network


def _in_own_precision(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return inputs in the precision of the weight, as some of torchao's kernels ask for."""
    return tuple(x.to(layer.get_parameter("weight").dtype) for x in inputs)


def _in_full_precision(_layer: nn.Module, _inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
    return y if torch.is_autocast_enabled(y.device.type) else y.float()


def _empty(kind: Any, folder: Path) -> Any:
    """Return the network without weights; tables that are in no file have numbers."""
    with init_empty_weights(include_buffers=False):
        return kind.from_config({k: v for k, v in kind.load_config(str(folder)).items() if k != SAYS})


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of all files of weights."""
    state, metadata = dict[str, Tensor](), dict[str, str]()
    files = weight_files(folder)
    if not files:
        raise UserError(f"{folder} must have its weights in safetensors, found none; save them so")
    for file in files:
        with safe_open(file, framework="pt") as opened:
            metadata |= opened.metadata() or {}
            state |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
    require_finite({name: tensor for name, tensor in state.items() if tensor.element_size() > 1}, str(folder))
    return state, metadata


def _require_read(folder: Path, unread: list[str]) -> None:
    if unread:
        raise UserError(f"{folder} has more than its network: {unread[0]} ({len(unread)} such); save it alone")
