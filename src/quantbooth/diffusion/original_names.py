"""What the original code calls a unet's layers, as single-file checkpoints and LoRA files for SDXL have it.

    input_blocks.0.0                        conv_in
    input_blocks.(1 + i (L + 1) + j).0      down_blocks.i.resnets.j       .1 its attention
    input_blocks.((i + 1) (L + 1)).0.op     down_blocks.i.downsamplers.0.conv
    middle_block.0, .1, .2                  mid_block: resnet, attention, resnet
    output_blocks.(i (L + 1) + j).0         up_blocks.i.resnets.j         .1 its attention, behind them upsamplers.0

with L = layers_per_block of the unet's configuration.
"""

import re
from typing import Any

__all__ = ["original_name"]

OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def original_name(unet: Any, name: str) -> str | None:
    """The original name of a unet's layer, or of a weight of it; None where the original code has none such."""
    for ours, theirs in OUTSIDE.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    if match := MIDDLE.fullmatch(name):
        kind, number, rest = match.groups()
        place = 1 if kind == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{_inside(kind, rest)}"
    match, layers = BLOCK.fullmatch(name), getattr(getattr(unet, "config", None), "layers_per_block", None)
    if match is None or not isinstance(layers, int):
        return None
    side, block, kind, number, rest = match.groups()
    return f"{_place(unet, side, int(block), kind, int(number), layers)}.{_inside(kind, rest)}"


def _place(unet: Any, side: str, block: int, kind: str, number: int, layers: int) -> str:
    within = int(kind == "attentions")
    match kind:
        case "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0"
        case "upsamplers":
            has_attention = hasattr(unet.up_blocks[block], "attentions")
            return f"output_blocks.{block * (layers + 1) + layers}.{1 + has_attention}"
        case _ if side == "down":
            return f"input_blocks.{1 + block * (layers + 1) + number}.{within}"
        case _:
            return f"output_blocks.{block * (layers + 1) + number}.{within}"


def _inside(kind: str, rest: str) -> str:
    """What a layer is called within its block."""
    if kind == "downsamplers":
        return "op" + rest.removeprefix("conv")
    first, _, more = rest.partition(".")
    if kind == "resnets" and first in RESNET:
        return f"{RESNET[first]}.{more}" if more else RESNET[first]
    return rest
