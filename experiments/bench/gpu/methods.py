"""The methods compared: a unet of random weights prepared by each, and kernels in the place of the library's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from experiments.bench.gpu import kernels
from quantbooth.quant import layers as layers_module
from quantbooth.quant.format import Grid
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.ops import Product
from quantbooth.quant.packed_weight import Packed
from quantbooth.quant.scale_sets import attach_, parameters
from quantbooth.quant.surgery import quantize_

__all__ = ["HALF", "UNETS", "build", "variant"]

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
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Folded(torch.autograd.Function):
    """y = (g s0 (q - z)) x + b of one set for the batch; keeps y, dg = sum(dy (y - b)) / g."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        g: Tensor,
        b: Tensor | None,
        codes: Tensor,
        scale: Tensor,
        zero: Tensor,
        packed: Packed,
        product: Product,
    ) -> Tensor:
        with torch.autocast("cuda", enabled=False):
            w = kernels.dequantize(packed, codes, scale, zero, x.dtype, g[0])
            bias = None if b is None else b[0].to(x.dtype)
            if isinstance(w, Tensor) and w.ndim == 4:
                window = (product.stride, product.padding, product.dilation, product.groups)  # type: ignore[attr-defined]
                y = F.conv2d(x, w, bias, *window)
            else:
                y = F.linear(x, w, bias)
        ctx.packed, ctx.product, ctx.shape = packed, product, x.shape
        ctx.save_for_backward(y, g, b, codes, scale, zero)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        y, g, b, codes, scale, zero = ctx.saved_tensors
        channel = ctx.product.channel
        with torch.autocast("cuda", enabled=False):
            if dy.stride() != y.stride():
                dy = torch.empty_like(y).copy_(dy)
            _, sums = kernels.gradients(dy, y, g, channel, bias=b, du=False)
            dx = None
            if ctx.needs_input_grad[0]:
                w = kernels.dequantize(ctx.packed, codes, scale, zero, dy.dtype, g[0])
                dx = ctx.product.transpose(dy, w, ctx.shape)
        return dx, sums / g, None, None, None, None, None, None


class Fused(torch.autograd.Function):
    """The product as it is, u kept; one kernel for y and one for du and dg."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        g: Tensor,
        b: Tensor | None,
        codes: Tensor,
        scale: Tensor,
        zero: Tensor,
        packed: Packed,
        product: Product,
    ) -> Tensor:
        with torch.autocast("cuda", enabled=False):
            u = product.apply(x, kernels.dequantize(packed, codes, scale, zero, x.dtype))
            y = kernels.affine(u, g, b, product.channel)
        ctx.packed, ctx.product, ctx.shape = packed, product, x.shape
        ctx.save_for_backward(u, g, codes, scale, zero)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        u, g, codes, scale, zero = ctx.saved_tensors
        with torch.autocast("cuda", enabled=False):
            if dy.stride() != u.stride():
                dy = torch.empty_like(u).copy_(dy)
            need = ctx.needs_input_grad[0]
            du, dg = kernels.gradients(dy, u, g, ctx.product.channel, du=need)
            dx = None
            if need and du is not None:
                w = kernels.dequantize(ctx.packed, codes, scale, zero, dy.dtype)
                dx = ctx.product.transpose(du, w, ctx.shape)
        return dx, dg, None, None, None, None, None, None


def _by(function: type[torch.autograd.Function]) -> Callable[..., Tensor]:
    def product(
        x: Tensor, g_in: None, g: Tensor, b: Tensor | None, codes: Tensor, s: Tensor, z: Tensor, packed: Packed, p: Any
    ) -> Tensor:
        x = x.to(torch.get_autocast_dtype("cuda")) if torch.is_autocast_enabled("cuda") else x
        y: Tensor = function.apply(x, g, b, codes, s, z, packed, p)
        return y

    return product


COMPILED = torch.compile(Packed.weight, dynamic=True)


@contextmanager
def variant(method: str) -> Iterator[None]:
    """Put the kernels of a method in the place of the library's."""
    name = method.removesuffix("_graph").removesuffix("_cl")
    patches: dict[str, tuple[Any, str, Any]] = {
        "ours_compiled": (Packed, "weight", lambda self, *a: COMPILED(self, *a)),
        "ours_triton": (Packed, "weight", lambda self, *a: kernels.dequantize(self, *a)),
        "ours_fused": (layers_module, "gained_product", _by(Fused)),
        "ours_folded": (layers_module, "gained_product", _by(Folded)),
    }
    with mock.patch.object(*patches[name]) if name in patches else nullcontext():
        yield


def build(size: str, method: str, dtype: torch.dtype) -> tuple[nn.Module, list[Tensor], Any]:
    """Return a unet of random weights prepared by a method, what it trains, and its selection of sets."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        unet: Any = UNet2DConditionModel(**UNETS[size]).eval()
    if method == "float":
        return unet, list(unet.parameters()), None
    unet.requires_grad_(False)
    if method in ("lora", "lora_half", "qlora"):
        return _lora(unet, method, dtype)
    if method == "peqa":
        return unet, [_fake_quantized(m) for n, m in unet.named_modules() if _quantized(n, m)], None
    quantize_(unet, MinMaxObserver(Grid(4)), exclude=["conv_in", "conv_out"])
    selection = attach_(unet, 1)
    return unet, [q for kind in parameters(unet).values() for q in kind], selection


def _lora(unet: Any, method: str, dtype: torch.dtype) -> tuple[nn.Module, list[Tensor], Any]:
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415

    if method == "lora_half":
        unet.to(dtype)
    if method == "qlora":
        import bitsandbytes as bnb  # noqa: PLC0415

        for name, module in list(unet.named_modules()):
            if type(module) is nn.Linear:
                bias = module.bias is not None
                new = bnb.nn.Linear4bit(module.in_features, module.out_features, bias, dtype, quant_type="nf4")
                new.load_state_dict(module.state_dict())
                parent, _, child = name.rpartition(".")
                setattr(unet.get_submodule(parent), child, new.to("cuda").requires_grad_(False))
    unet = inject_adapter_in_model(LoraConfig(r=4, target_modules=ATTENTION), unet)
    learned = [q for n, q in unet.named_parameters() if "lora_" in n]
    for parameter in learned:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return unet, learned, None


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
