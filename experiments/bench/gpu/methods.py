"""The methods compared: a unet of random weights, prepared by each."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from quantbooth.diffusion.stored import trainable_
from quantbooth.quant import adapters
from quantbooth.quant.format import Grid
from quantbooth.quant.kernels.choice import AUTO, EAGER
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.scale_sets import OUTPUTS, Parts, attach_, parameters
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import quantize_

__all__ = ["DEVICE", "HALF", "METHODS", "UNETS", "Built", "Method", "build"]

DEVICE = "cuda"

SD15: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": [1, 2, 10],
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
UNETS: dict[str, dict[str, Any]] = {"sd15": SD15, "sdxl": SDXL}
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
RANK = 4
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Method:
    """What is trained, and how.

    Attributes:
        kind: "scales", "lora", "qlora" (nf4), "packed" (our qlora), "sdnq" (LoRA over SDNQ's uint4), "float" or "peqa".
        parts: of a scale set.
        sets: scale sets, mixed in a batch.
        kernels: of quantized layers.
        half: whether frozen float weights are in half precision.
    """

    kind: str = "scales"
    parts: Parts = OUTPUTS
    sets: int = 1
    kernels: str = AUTO
    half: bool = False


METHODS = {
    "ours": Method(),
    "ours_eager": Method(kernels=EAGER),
    "ours_in_out": Method(parts=Parts(inputs=True)),
    "ours_zones": Method(sets=3),
    "ours_subjects": Method(sets=8),
    "lora": Method("lora"),
    "lora_half": Method("lora", half=True),
    "qlora": Method("qlora"),
    "qlora_packed": Method("packed"),
    "lora_sdnq": Method("sdnq", half=True),
    "float": Method("float"),
    "peqa": Method("peqa"),
}


@dataclass(frozen=True)
class Built:
    """A unet of random weights prepared by a method, what it trains, and its choice of sets."""

    unet: nn.Module
    learned: list[Tensor]
    selection: SetSelection | None


def build(size: str, method: Method, dtype: torch.dtype) -> Built:
    """Return a unet on the card."""
    torch.manual_seed(0)
    with torch.device(DEVICE):
        unet: Any = UNet2DConditionModel(**UNETS[size]).eval()
    if method.kind == "float":
        return Built(unet, list(unet.parameters()), None)
    unet.requires_grad_(False)
    if method.kind in ("lora", "qlora", "sdnq"):
        return _lora(unet, method, dtype)
    if method.kind == "peqa":
        return Built(unet, [_fake_quantized(m) for n, m in unet.named_modules() if _quantized(n, m)], None)
    quantize_(unet, MinMaxObserver(Grid(4)), exclude=["conv_in", "conv_out"])
    if method.kind == "packed":
        selection, names = SetSelection(), adapters.targets(unet, adapters.ATTENTION, [])
        adapters.attach_(unet, names, 1, RANK, 1.0, selection, torch.Generator().manual_seed(0))
        return Built(unet, [*adapters.parameters(unet)], selection)
    selection = attach_(unet, method.sets, parts=method.parts)
    return Built(unet, [q for kind in parameters(unet).values() for q in kind], selection)


def _lora(unet: Any, method: Method, dtype: torch.dtype) -> Built:
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415

    if method.half:
        unet.to(dtype)
    if method.kind == "qlora":
        _to_nf4_(unet, dtype)
    if method.kind == "sdnq":
        from sdnq import sdnq_post_load_quant  # noqa: PLC0415

        given = {"weights_dtype": "uint4", "quant_conv": True, "minimum_allowed_numel": 0}
        unet = sdnq_post_load_quant(unet, torch_dtype=dtype, **given)
        for layer in unet.modules():
            trainable_(layer)
    unet = inject_adapter_in_model(LoraConfig(r=RANK, target_modules=ATTENTION), unet)
    learned = [q for n, q in unet.named_parameters() if "lora_" in n]
    for parameter in learned:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return Built(unet, learned, None)


def _to_nf4_(unet: Any, dtype: torch.dtype) -> None:
    import bitsandbytes as bnb  # noqa: PLC0415

    for name, module in list(unet.named_modules()):
        if type(module) is nn.Linear:
            bias = module.bias is not None
            new = bnb.nn.Linear4bit(module.in_features, module.out_features, bias, dtype, quant_type="nf4")
            new.load_state_dict(module.state_dict())
            parent, _, child = name.rpartition(".")
            setattr(unet.get_submodule(parent), child, new.to(DEVICE).requires_grad_(False))


def _quantized(name: str, module: nn.Module) -> bool:
    return type(module) in (nn.Linear, nn.Conv2d) and name not in ("conv_in", "conv_out")


def _fake_quantized(module: Any) -> Tensor:
    search = MinMaxObserver(Grid(4))
    s, z = search(module.weight.detach().flatten(1))
    view = (-1, *[1] * (module.weight.ndim - 1))
    module.codes = (module.weight / s.view(view)).round().add(z.view(view)).clamp(0, 15).to(torch.uint8)
    module.zero, module.s = z, nn.Parameter(s)
    del module.weight

    def forward(x: Tensor, m: Any = module) -> Tensor:
        w = (m.codes.float() - m.zero.view(view)) * m.s.view(view)
        return F.linear(x, w, m.bias) if w.ndim == 2 else F.conv2d(x, w, m.bias, m.stride, m.padding)

    module.forward = forward
    learned: Tensor = module.s
    return learned
