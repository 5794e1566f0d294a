"""Names of layers in LoRA files of PEFT, diffusers and kohya, mapped to the layers of a base.

The original Stable Diffusion code, whose names single-file checkpoints and LoRA files for SDXL use, names layers thus:

    input_blocks.0.0                        conv_in
    input_blocks.(1 + i (L + 1) + j).0      down_blocks.i.resnets.j       .1 its attention
    input_blocks.((i + 1) (L + 1)).0.op     down_blocks.i.downsamplers.0.conv
    middle_block.0, .1, .2                  mid_block: resnet, attention, resnet
    output_blocks.(i (L + 1) + j).0         up_blocks.i.resnets.j         .1 its attention, then upsamplers.0

with L = layers_per_block of the unet's configuration. LoRA files name the factors of a layer thus:

    PEFT        base_model.model.<layer>.lora_A.weight                     as PEFT saves a unet alone
    diffusers   unet.<layer>.lora_A.weight, text_encoder.<layer>.lora_A.weight
    older       unet.<layer>.lora.down.weight, .lora_linear_layer.up.weight, unet.<...>.processor.to_q_lora.down.weight
    kohya       lora_unet_<layer>.lora_down.weight, lora_te_<layer>.alpha: dots of <layer> written as underscores
    for SDXL    lora_unet_input_blocks_4_1_<...>: the same with the names of the original code

Files of transformers in names of the original code are translated by diffusers (see `lora_translation`).

Underscores do not show where the dots were, so names are not parsed: every layer of the base is listed under every name
that a file may use for it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.diffusers_folder import text_encoder_names
from quantbooth.diffusion.model import Family
from quantbooth.quant import adapters
from quantbooth.quant.adapters import Sets
from quantbooth.runtime.errors import UserError

__all__ = ["Names", "Place", "original_name", "parts_of", "to_peft"]

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
    """Return the original code's name of a unet's layer, or of its weight; None where the original has none."""
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
    """Return the original code's name of a layer within its block."""
    if kind == "downsamplers":
        return "op" + rest.removeprefix("conv")
    first, _, more = rest.partition(".")
    if kind == "resnets" and first in RESNET:
        return f"{RESNET[first]}.{more}" if more else RESNET[first]
    return rest


Place = tuple[str, str]
"""Part of the base (its denoiser's component, "text_encoder", "text_encoder_2") and name of the layer in it."""
FACTOR = re.compile(r"(.+?)[._]lora(?:_linear_layer)?[._](A|B|down|up)(?:\.default)?\.weight")
ALPHA = re.compile(r"(.+?)(?:\.lora)?\.(alpha)")
HALVES = {"A": "A", "down": "A", "B": "B", "up": "B", "alpha": "alpha"}
KOHYA = {"text_encoder": ("lora_te_", "lora_te1_"), "text_encoder_2": ("lora_te2_",)}
"""The prefixes of text encoder layers in kohya's files; a family has `lora_prefixes` for its denoiser."""
INSIDE = "text_model."
"""A prefix of text encoder layers that some releases of transformers write and others do not."""


def parts_of(base: Base) -> dict[str, nn.Module]:
    """Return the networks of a base that LoRA files can change, by diffusers' component name."""
    names = text_encoder_names(len(base.encoders))
    return {base.component: base.denoiser, **dict(zip(names, base.text_encoders, strict=True))}


class Names:
    """The layers of some networks (`parts_of`) by every name that they may have in a file."""

    def __init__(self, family: Family, parts: Mapping[str, nn.Module]) -> None:
        self._places: dict[str, list[Place]] = {}
        for part, network in parts.items():
            for layer in adapters.layers(network):
                for name in dict.fromkeys((*_names(part, layer, family), *_others(part, network, layer, family))):
                    self._places.setdefault(name, []).append((part, layer))

    def find(self, key: str) -> tuple[Place, str] | None:
        """Return the layer of a file's key and its role, "A", "B" or "alpha"; None where no layer matches.

        Raises:
            UserError: when two layers match.
        """
        match = FACTOR.fullmatch(key) or ALPHA.fullmatch(key)
        if match is None:
            return None
        name = match[1].removeprefix("base_model.model.").replace(".processor.", ".")
        places = self._places.get(name, [])
        if len(places) > 1:
            raise UserError(f"{key!r} may mean {places[0][1]!r} or {places[1][1]!r}")
        return (places[0], HALVES[match[2]]) if places else None

    def examples(self) -> tuple[str, ...]:
        """Return two names as diffusers writes them."""
        return tuple(f"{part}.{layer}" for part, layer in dict.fromkeys(p[0] for p in self._places.values()))[:2]


def to_peft(sets: Mapping[str, Tensor], component: str) -> Sets:
    """Return trained adapters under the names of diffusers and PEFT, for `load_lora_weights`.

    The scale alpha / r is folded into B, so alpha equals the rank, which readers assume by default.

    Raises:
        UserError: when there are several sets: a LoRA file applies to all timesteps.
    """
    made: Sets = {}
    for name, (down, up) in adapters.pairs(sets).items():
        if len(down) != 1:
            raise UserError(f"a LoRA file holds one set of adapters for all timesteps, got {len(down)}")
        point = (1, 1) if down.ndim == 5 else ()
        made[f"{component}.{name}.lora_A.weight"] = down[0]
        made[f"{component}.{name}.lora_B.weight"] = up[0].reshape(*up.shape[1:], *point)
    return made


def _others(part: str, network: nn.Module, layer: str, family: Family) -> Iterable[str]:
    """Return the names that other tools use for a layer of the family's denoiser."""
    return family.lora_names(network, layer) if part == family.component else ()


def _names(part: str, layer: str, family: Family) -> Iterator[str]:
    """Yield the names of a layer in files, without the suffix of the factor."""
    spelled = [layer]
    if part != family.component:
        spelled = [layer.removeprefix(INSIDE), INSIDE + layer.removeprefix(INSIDE)]
    for name in spelled:
        for short in dict.fromkeys((name, name.removesuffix(".0") if name.endswith("to_out.0") else name)):
            yield f"{part}.{short}"
            if part != "text_encoder_2":  # its layers have the same names as those of the first
                yield short
        for prefix in family.lora_prefixes if part == family.component else KOHYA.get(part, ()):
            yield prefix + name.replace(".", "_")
