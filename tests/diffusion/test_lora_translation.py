"""LoRA files of transformers in names of the original code: what they add is worked by hand, and nothing is lost."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from experiments.random_base import random_base
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.lora_files import LoraFile, add_loras_
from quantbooth.diffusion.sampler import initial_noise
from quantbooth.runtime.errors import UserError

RANK, ALPHA = 2, 3.0
QKV, ADDED = ("attn.to_q", "attn.to_k", "attn.to_v"), ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
FLUX = {
    "double_blocks.0.img_attn.qkv": [f"transformer_blocks.0.{layer}" for layer in QKV],
    "double_blocks.0.txt_attn.qkv": [f"transformer_blocks.0.{layer}" for layer in ADDED],
    "double_blocks.0.img_attn.proj": ["transformer_blocks.0.attn.to_out.0"],
}
LAYERS = {
    "tiny-flux1": {**FLUX, "single_blocks.0.linear2": ["single_transformer_blocks.0.proj_out"]},
    "tiny-chroma": FLUX,
    "tiny-klein": {**FLUX, "single_blocks.0.linear1": ["single_transformer_blocks.0.attn.to_qkv_mlp_proj"]},
    "tiny-zimage": {f"layers.0.attention.to_{x}": [f"layers.0.attention.to_{x}"] for x in "qv"},
    "tiny-qwen-image": {f"transformer_blocks.0.attn.to_{x}": [f"transformer_blocks.0.attn.to_{x}"] for x in "qv"},
}
"""Layers of the original code, and those of diffusers that are their parts, by base."""
Halves = dict[str, tuple[Tensor, Tensor]]


def kohya(found: Halves) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for name, (down, up) in found.items():
        flat = f"lora_unet_{name.replace('.', '_')}"
        made |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(ALPHA)}
    return made


def comfy(found: Halves) -> dict[str, Tensor]:
    """Without alpha, which is then the rank."""
    return {
        f"diffusion_model.{name}.lora_{half}.weight": tensor
        for name, (down, up) in found.items()
        for half, tensor in (("A", down), ("B", up * (ALPHA / RANK)))
    }


def halves(base: Base, layers: dict[str, list[str]], joined: bool = False) -> Halves:
    """Return A and B of the original code's layers; `joined` are those of separate LoRAs of a layer's parts."""
    draw, made = torch.Generator().manual_seed(0), {}
    for name, parts in layers.items():
        shapes = [base.denoiser.get_submodule(part).weight.shape for part in parts]
        ups = [torch.randn(shape[0], RANK, generator=draw) for shape in shapes]
        up, rank = (torch.block_diag(*ups), RANK * len(ups)) if joined else (torch.cat(ups), RANK)
        made[name] = (torch.randn(rank, shapes[0][1], generator=draw), up)
    return made


def predicted(base: Base) -> Tensor:
    texts = ["a red mug"]
    noise = initial_noise(texts, [0], base.latent_shape)
    with torch.no_grad():
        return base.predict(noise, torch.tensor([500.0]), base.encode_prompts(texts))


def written(path: Path, tensors: dict[str, Tensor]) -> LoraFile:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path / "style.safetensors")
    return LoraFile(path / "style.safetensors", 1.0)


@pytest.mark.parametrize(
    ("name", "style", "joined"),
    [
        *[(name, kohya, False) for name in LAYERS],
        *[(name, comfy, False) for name in ("tiny-klein", "tiny-zimage", "tiny-qwen-image")],
        *[(name, kohya, True) for name in ("tiny-flux1", "tiny-klein")],
    ],
)
def test_it_adds_what_is_worked_by_hand(
    name: str, style: Callable[[Halves], dict[str, Tensor]], joined: bool, tmp_path: Path
) -> None:
    base, by_hand = random_base(name), random_base(name)
    found, plain = halves(base, LAYERS[name], joined), predicted(base)
    for layer, (down, up) in found.items():
        parts = [by_hand.denoiser.get_submodule(part) for part in LAYERS[name][layer]]
        change = (ALPHA / len(down)) * up @ down
        for part, rows in zip(parts, change.split([len(part.weight) for part in parts]), strict=True):
            part.weight += rows
    add_loras_(base, [written(tmp_path, style(found))])
    expected = predicted(by_hand)
    assert (expected - plain).abs().max() > 1e-3
    torch.testing.assert_close(predicted(base), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny-flux1", "tiny-klein", "tiny-qwen-image"])
@pytest.mark.parametrize("style", [kohya, comfy])
def test_what_no_layer_takes_is_refused(
    name: str, style: Callable[[Halves], dict[str, Tensor]], tmp_path: Path
) -> None:
    base = random_base(name)
    found = halves(base, LAYERS[name])
    pair = next(iter(found.values()))
    for other in ("another", "double_blocks.7.img_attn.proj", "transformer_blocks.7.attn.to_q"):
        with pytest.raises(UserError, match=r"style\.safetensors (matches nothing of|does not fit) this base"):
            add_loras_(base, [written(tmp_path, style({**found, other: pair}))])


@pytest.mark.parametrize("name", ["tiny-sd3", "tiny-sana", "tiny-pixart", "tiny-klein", "tiny-zimage"])
def test_a_file_of_another_family_is_refused(name: str, tmp_path: Path) -> None:
    flux = random_base("tiny-flux1")
    file = written(tmp_path, kohya(halves(flux, LAYERS["tiny-flux1"])))
    with pytest.raises(UserError, match=r"style\.safetensors"):
        add_loras_(random_base(name), [file])
