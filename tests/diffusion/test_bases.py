"""Single files: converted to the original folder, reused, and refused where they are not valid."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from experiments.random_base import random_base
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.lora_names import original_name
from quantbooth.diffusion.original_weights import untaken
from quantbooth.diffusion.pretrained import load_base, save_base
from quantbooth.diffusion.schedule import Schedule
from quantbooth.diffusion.sources import find_base
from quantbooth.runtime.errors import UserError
from quantbooth_toyworld.models import SCHEDULE

AUTOENCODER = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "resnets": "block",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
}


def of_autoencoder(name: str, blocks: int) -> str:
    for i in range(blocks):
        name = name.replace(f"down_blocks.{i}.", f"down.{i}.").replace(f"up_blocks.{i}.", f"up.{blocks - 1 - i}.")
    for ours, theirs in AUTOENCODER.items():
        name = name.replace(ours, theirs)
    return name


def original(base: Base) -> dict[str, Tensor]:
    """All weights of a base by the names of the original code."""
    file = {
        f"model.diffusion_model.{original_name(base.denoiser, key)}": value
        for key, value in base.denoiser.state_dict().items()
    }
    autoencoder: Any = base.autoencoder
    for key, value in autoencoder.state_dict().items():
        square = value[:, :, None, None] if ".attentions." in key and value.ndim == 2 else value
        file[f"first_stage_model.{of_autoencoder(key, 4)}"] = square
    for key, value in base.text_encoder.state_dict().items():
        file[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    return {key: value.contiguous().clone() for key, value in file.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with the structure of SD 1.5."""
    place = tmp_path_factory.mktemp("bases") / "tiny"
    save_base(random_base("tiny", seed=1), place, torch.float32)
    return place


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another base of the same architecture."""
    place = tmp_path_factory.mktemp("bases") / "other"
    save_base(random_base("tiny", seed=2), place, torch.float32)
    return place


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Tensor]:
    """All weights of the base by the names of the original code."""
    return original(load_base(folder, "tiny"))


def test_a_single_file_is_the_folder_it_was_made_of(folder: Path, config: Path, tmp_path: Path) -> None:
    base, file = load_base(folder, "tiny"), tmp_path / "model.safetensors"
    save_file(original(base), file)
    found = find_base(str(file), None, str(config), str(tmp_path / "bases"))
    assert found.parent == tmp_path / "bases"
    again = load_base(found, "tiny")
    for part in ("denoiser", "autoencoder", "text_encoder"):
        states = [getattr(made, part).state_dict() for made in (base, again)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert again.scheduler_config["prediction_type"] == base.scheduler_config["prediction_type"]


def test_it_is_converted_once_and_again_when_it_changes(folder: Path, config: Path, tmp_path: Path) -> None:
    file, made = tmp_path / "model.safetensors", str(tmp_path / "bases")
    save_file({name: value.half() for name, value in original(load_base(folder, "tiny")).items()}, file)
    found = find_base(str(file), None, str(config), made)
    written = (found / "model_index.json").stat().st_mtime_ns
    assert find_base(str(file), None, str(config), made) == found
    assert (found / "model_index.json").stat().st_mtime_ns == written
    os.utime(file, ns=(1, 1))
    assert find_base(str(file), None, str(config), made) != found
    sizes = [sum(part.stat().st_size for part in (place / "unet").iterdir()) for place in (found, folder)]
    assert sizes[0] < 0.7 * sizes[1]


def test_a_file_needs_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"architecture: .*base\.config=DIR"):
        find_base(str(tmp_path / "model.safetensors"))


def test_what_is_no_whole_model_of_the_architecture_is_refused(
    whole: dict[str, Tensor], config: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"

    def refusal(content: dict[str, Tensor] | bytes, architecture: Path = config) -> str:
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            save_file(content, file)
        with pytest.raises(UserError) as caught:
            find_base(str(file), None, str(architecture), str(tmp_path / "bases"))
        assert list((tmp_path / "bases").iterdir()) == []
        return str(caught.value)

    (tmp_path / "bases").mkdir()
    assert "is not a safetensors file that can be read" in refusal(b"nonsense")
    assert "a LoRA goes into lora=[model.safetensors]" in refusal({"lora_unet_x.alpha": torch.ones(1)})
    first = "model.diffusion_model.input_blocks.0.0.weight"
    assert "is not of the architecture of" in refusal({**whole, first: torch.zeros(8, 4, 3, 3)})
    lost = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    told = refusal({name: value for name, value in whole.items() if name != lost})
    assert "weights are missing" in told
    without = refusal({name: value for name, value in whole.items() if not name.startswith("first_stage")})
    assert "choose another base.config" in without


XL = "stable-diffusion-xl-v1-base"
ALPHAS = Schedule(SCHEDULE).alpha_bar
BETAS = 1 - ALPHAS / torch.cat([torch.ones(1), ALPHAS[:-1]])
UNTAKEN = (
    "model.diffusion_model.input_blocks.99.0.weight",
    "first_stage_model.encoder.down.9.block.0.conv1.weight",
    "first_stage_model.decoder.mid.block_3.conv1.weight",
    "first_stage_model.encoder.mid.attn_1.rank.weight",
    "first_stage_model.quant_conv.scale",
    "cond_stage_model.transformer.text_model.encoder.layers.99.mlp.fc1.weight",
    "cond_stage_model.transformer.vision_model.post_layernorm.weight",
    "cond_stage_model.vision.position_ids",
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",
)


@pytest.mark.parametrize(
    ("named", "header", "added"),
    [
        ("modelspec.architecture", {"modelspec.architecture": XL}, {}),
        ("modelspec.architecture", {"modelspec.architecture": "stable-diffusion-v1/lora"}, {}),
        ("modelspec.architecture", {"modelspec.architecture": "stable-diffusion-v1-inpainting"}, {}),
        ("ss_base_model_version", {"ss_base_model_version": "sdxl_base_v1-0"}, {}),
        ("modelspec.prediction_type", {"modelspec.prediction_type": "v"}, {}),
        ("modelspec.prediction_type", {"modelspec.prediction_type": "flow"}, {}),
        ("modelspec.resolution", {"modelspec.resolution": "512x512"}, {}),
        ("modelspec.resolution", {"modelspec.resolution": "64x96"}, {}),
        ("ss_v_parameterization", {"ss_v_parameterization": "True"}, {}),
        ("ss_zero_terminal_snr", {"ss_zero_terminal_snr": "True"}, {}),
        ("v_pred", {}, {"v_pred": torch.ones(())}),
        ("ztsnr", {}, {"ztsnr": torch.ones(())}),
        ("alphas_cumprod", {}, {"alphas_cumprod": ALPHAS**2}),
        ("alphas_cumprod", {}, {"alphas_cumprod": ALPHAS[:500].clone()}),
        ("alphas_cumprod", {}, {"alphas_cumprod": torch.ones(1000, dtype=torch.int64)}),
        ("betas", {}, {"alphas_cumprod": ALPHAS, "betas": 1.01 * BETAS}),
        ("sqrt_alphas_cumprod", {}, {"sqrt_alphas_cumprod": ALPHAS}),
        ("sqrt_one_minus_alphas_cumprod", {}, {"sqrt_one_minus_alphas_cumprod": 1 - ALPHAS}),
        ("edm_mean", {}, {"edm_mean": torch.zeros(4)}),
        ("extra.weight", {}, {"extra.weight": torch.zeros(4)}),
        *((name, {}, {name: torch.zeros(4)}) for name in UNTAKEN),
    ],
)
def test_a_file_that_says_otherwise_than_its_configuration_is_refused_by_key(
    whole: dict[str, Tensor], config: Path, tmp_path: Path, named: str, header: dict[str, str], added: dict[str, Tensor]
) -> None:
    file = tmp_path / "model.safetensors"
    save_file({**whole, **added}, file, metadata={"format": "pt", **header})
    with pytest.raises(UserError, match=rf"\b{re.escape(named)}\b.*; choose another base\.config$"):
        find_base(str(file), None, str(config), str(tmp_path / "bases"))
    assert not list(tmp_path.glob("bases/*"))


@pytest.mark.parametrize("part", ["model.diffusion_model.", "first_stage_model.", "cond_stage_model."])
@pytest.mark.parametrize("kind", [torch.int8, torch.bool])
def test_weights_that_are_no_floating_point_numbers_are_refused_by_name(
    whole: dict[str, Tensor], config: Path, tmp_path: Path, part: str, kind: torch.dtype
) -> None:
    name = next(name for name in whole if name.startswith(part))
    file = tmp_path / "model.safetensors"
    save_file({**whole, name: whole[name].to(kind)}, file)
    with pytest.raises(UserError, match=rf"model.safetensors: {re.escape(name)} must be of a floating-point type"):
        find_base(str(file), None, str(config), str(tmp_path / "bases"))
    assert not list(tmp_path.glob("bases/*"))


OPEN_CLIP = {
    "text_model.": "",
    "encoder.layers.": "transformer.resblocks.",
    "final_layer_norm": "ln_final",
    "layer_norm": "ln_",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.": "attn.",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "text_projection.weight": "text_projection",
}


def of_open_clip(name: str) -> str:
    for ours, theirs in OPEN_CLIP.items():
        name = name.replace(ours, theirs)
    return re.sub(r"[qkv]_proj\.", "in_proj_", name)


@pytest.mark.parametrize(
    ("kind", "beginnings"),
    [
        ("tiny", ["cond_stage_model.model."]),
        ("tiny-xl", ["conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."]),
    ],
)
def test_names_of_open_clip_are_followed_to_both_text_encoders(
    kind: str, beginnings: list[str], tmp_path: Path
) -> None:
    base = random_base(kind, seed=1)
    save_base(base, tmp_path, torch.float32)
    names = {f"model.diffusion_model.{name}" for name in base.family.original_names(base.denoiser)}
    names |= {f"first_stage_model.{of_autoencoder(key, 4)}" for key in base.autoencoder.state_dict()}
    for encoder, beginning in zip(base.text_encoders, beginnings, strict=True):
        translated = of_open_clip if beginning.endswith(".model.") else str
        names |= {f"{beginning}{translated(key.removeprefix('text_model.'))}" for key in encoder.state_dict()}
    spare = {f"{beginnings[-1]}logit_scale", f"{beginnings[-1]}attn_mask", "model_ema.x"}
    assert untaken(names | spare, tmp_path, base.family) == []
    more = {f"{beginning}{name}" for beginning in beginnings for name in ("transformer.resblocks.99.ln_1.bias", "more")}
    assert untaken(names | more, tmp_path, base.family) == sorted(more)


def test_a_file_that_agrees_with_its_configuration_is_taken(
    whole: dict[str, Tensor], config: Path, tmp_path: Path
) -> None:
    file, agreeing = (
        tmp_path / "model.safetensors",
        {
            "modelspec.architecture": "stable-diffusion-v1",
            "modelspec.prediction_type": "epsilon",
            "modelspec.resolution": "64x64",
            "ss_base_model_version": "sd_v1",
            "ss_v_parameterization": "False",
        },
    )
    buffers = {"alphas_cumprod": ALPHAS.bfloat16(), "betas": BETAS.half(), "model_ema.decay": torch.ones(())}
    buffers |= {"sqrt_alphas_cumprod": ALPHAS.sqrt(), "sqrt_one_minus_alphas_cumprod": (1 - ALPHAS).sqrt()}
    buffers["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file({**whole, **buffers}, file, metadata=agreeing)
    assert find_base(str(file), None, str(config), str(tmp_path / "bases")).is_dir()


def test_folders_are_taken_as_they_are(folder: Path) -> None:
    assert find_base(str(folder)) == folder
