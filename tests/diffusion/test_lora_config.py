"""The configuration of a LoRA is read by a schema: what decides nothing is known, the rest is honoured or refused."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.lora_files import add_loras_, lora_file
from quantbooth.runtime.errors import UserError

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def fresh(base: Base) -> Base:
    return base.with_denoiser(deepcopy(base.denoiser))


def written(folder: Path, form: str, config: str) -> Path:
    """A LoRA of one layer with this text as its configuration."""
    halves = {"A": torch.ones(2, 128), "B": torch.ones(128, 2)}
    tensors = {f"unet.{LAYER}.lora_{half}.weight": tensor for half, tensor in halves.items()}
    if form == "peft":
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(config)
    else:
        told = config.replace('{"', '{"unet.').replace(', "', ', "unet.')
        save_file(tensors, folder / "style.safetensors", metadata={"lora_adapter_metadata": told})
    return folder


CONFIGS = [
    ('{"lora_alpha": "8"}', "lora_alpha"),
    ('{"lora_alpha": NaN}', "NaN"),
    ('{"lora_alpha": 1e999}', "1e999"),
    ('{"lora_alpha": null}', "lora_alpha"),
    ('{"lora_alpha": 1, "lora_alpha": 2}', "lora_alpha"),
    ('{"lora_alfa": 8}', "lora_alfa: unknown key"),
    ('{"use_rslora": "false"}', "use_rslora"),
    ('{"r": 2.5}', "r: "),
    ('{"alpha_pattern": [1]}', "alpha_pattern"),
    ('{"use_dora": true}', "use_dora"),
    ('{"peft_type": "LOHA"}', "peft_type"),
    ('{"r": 2}', "lora_alpha"),
    ('{"r": 4, "lora_alpha": 4}', "r = 4"),
    ("[]", "must be|object|dict"),
    ("{", "must be JSON"),
]


@pytest.mark.parametrize(("text", "told"), CONFIGS)
@pytest.mark.parametrize("form", ["peft", "diffusers"])
def test_what_is_not_known_is_refused_by_file_and_key(
    fresh: Base, tmp_path: Path, form: str, text: str, told: str
) -> None:
    with pytest.raises(UserError, match=told) as caught:
        add_loras_(fresh, [lora_file(str(written(tmp_path, form, text)))])
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_part_that_the_base_has_not_is_refused_by_key(fresh: Base, tmp_path: Path) -> None:
    folder = written(tmp_path, "diffusers", '{"lora_alpha": 8}'.replace("lora", "unet.lora"))
    with pytest.raises(UserError, match=r"unet: unet\.lora_alpha: unknown key"):
        add_loras_(fresh, [lora_file(str(folder))])
    (folder / "style.safetensors").unlink()
    save_file(
        {"x": torch.ones(1)}, folder / "a.safetensors", {"lora_adapter_metadata": '{"transformer.lora_alpha": 8}'}
    )
    with pytest.raises(UserError, match=r"transformer\.lora_alpha: unknown key; .*unet"):
        add_loras_(fresh, [lora_file(str(folder))])


@pytest.mark.parametrize("form", ["peft", "diffusers"])
def test_what_peft_writes_of_training_is_known(fresh: Base, tmp_path: Path, form: str) -> None:
    told = {"peft_type": "LORA", "lora_alpha": 3, "r": 2, "bias": "none", "rank_pattern": {}, "use_dora": False}
    text = json.dumps({**told, "layer_replication": None, "target_modules": ["a"]})
    add_loras_(fresh, [lora_file(str(written(tmp_path, form, text)))])
    assert fresh.denoiser.get_submodule(LAYER).foreign_B.unique().tolist() == [1.5]


HEADERS = [
    {"ss_base_model_version": "sdxl_base_v1-0"},
    {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"},
    {"modelspec.architecture": "stable-diffusion-v1-inpainting/lora"},
]


@pytest.mark.parametrize("header", HEADERS)
def test_a_file_that_says_another_architecture_is_refused(fresh: Base, tmp_path: Path, header: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(header))} = {next(iter(header.values()))}"):
        add_loras_(fresh, [lora_file(str(kohya(tmp_path, header)))])


def test_a_file_trained_to_predict_something_else_is_told(
    fresh: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = {"modelspec.architecture": "stable-diffusion-v1/lora", "ss_base_model_version": "sd_v1"}
    add_loras_(deepcopy(fresh), [lora_file(str(kohya(tmp_path, same)))])
    assert "warning" not in capsys.readouterr().err
    add_loras_(fresh, [lora_file(str(kohya(tmp_path, {"modelspec.prediction_type": "v"})))])
    assert "modelspec.prediction_type = v_prediction" in capsys.readouterr().err


def kohya(folder: Path, header: dict[str, str]) -> Path:
    """A LoRA of one layer with this header."""
    halves = {"A": torch.ones(2, 128), "B": torch.ones(128, 2)}
    save_file({f"unet.{LAYER}.lora_{h}.weight": t for h, t in halves.items()}, folder / "x.safetensors", header)
    return folder / "x.safetensors"
