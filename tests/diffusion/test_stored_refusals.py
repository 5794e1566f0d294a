"""Denoisers that another package quantized, and their files: what is refused, most of it before weights are read."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantbooth.diffusion import stored
from quantbooth.diffusion.pretrained import check_base, read_denoiser
from quantbooth.diffusion.stored import stored_by
from quantbooth.runtime.errors import UserError
from stored_bases import write_stored


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base in a format; nobody writes into it."""
    return write_stored(tmp_path_factory.mktemp("base"), request.param)


@pytest.fixture
def edited(base_folder: Path, tmp_path: Path) -> Callable[[object], Path]:
    """Copies the tiny float base, with a quantization_config in its denoiser's configuration."""

    def make(said: object) -> Path:
        folder = tmp_path / "edited"
        shutil.copytree(base_folder, folder)
        file = folder / "unet" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": said}))
        return folder

    return make


def test_a_float_denoiser_is_stored_by_nobody_and_refused_as_stored(base_folder: Path) -> None:
    assert stored_by(base_folder / "unet") is None
    check_base(base_folder, 32, 1000)
    with pytest.raises(UserError, match=r"quant=as_stored .*unet are float; choose quant=w4"):
        check_base(base_folder, 32, 1000, as_stored=True)


@pytest.mark.parametrize("said", [{"quant_method": "quanto"}, {"weights": 4}, "nf4", ["torchao"]])
def test_another_method_is_refused_with_its_value(edited: Callable[[object], Path], said: object) -> None:
    found = said.get("quant_method") if isinstance(said, dict) else said
    with pytest.raises(UserError) as error:
        check_base(edited(said), 32, 1000, as_stored=True)
    assert "quant_method must be bitsandbytes, torchao, sdnq" in str(error.value)
    assert f"found {json.dumps(found)}" in str(error.value)


def test_quantized_weights_are_refused_where_they_would_be_quantized_again(edited: Callable[[object], Path]) -> None:
    with pytest.raises(UserError, match=r"quantized by torchao already; choose quant=as_stored"):
        check_base(edited({"quant_method": "torchao"}), 32, 1000)


@pytest.mark.parametrize(("package", "name"), [("sdnq", "sdnq"), ("torchao", "'quantbooth[stored]'")])
def test_a_package_that_is_not_installed_is_named(
    edited: Callable[[object], Path], monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    monkeypatch.setattr(stored, "find_spec", lambda name: None)
    folder, refusal = edited({"quant_method": package}), re.escape(f"package {package}; pip install {name}")
    with pytest.raises(UserError, match=refusal):
        check_base(folder, 32, 1000, as_stored=True)
    with pytest.raises(UserError, match=refusal):
        read_denoiser(folder)


@pytest.mark.parametrize("more", ["other.gguf", "diffusion_pytorch_model.safetensors", "config.json"])
def test_weights_that_are_there_twice_are_refused(edited: Callable[[object], Path], more: str) -> None:
    unet = edited({"quant_method": "torchao"} if more == "config.json" else None) / "unet"
    if more != "diffusion_pytorch_model.safetensors":
        (unet / "diffusion_pytorch_model.safetensors").unlink()
    for name in ("a.gguf", *([more] if more == "other.gguf" else [])):
        (unet / name).touch()
    with pytest.raises(UserError, match=rf"weights once, found a\.gguf and .*{more}"):
        stored_by(unet)


def test_an_autoencoder_is_not_read_as_stored(base_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(base_folder, folder)
    file = folder / "vae" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": {"quant_method": "torchao"}}))
    with pytest.raises(UserError, match=r"vae.config\.json says .quantization_config"):
        check_base(folder, 32, 1000)


def rewritten(folder: Path, to: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """Copy a base, with other tensors in its denoiser's file, and the same metadata."""
    shutil.copytree(folder, to)
    (file,) = (to / "unet").glob("*.safetensors")
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = opened.metadata()
    change(tensors)
    save_file(tensors, file, metadata)
    return to


CHANGES: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "lacks": lambda tensors: tensors.pop("conv_in.weight"),
    "has more than": lambda tensors: tensors.update({"conv_in.other": torch.zeros(1)}),
    "must be finite": lambda tensors: tensors["conv_in.bias"].fill_(float("nan")),
    "cannot be read": lambda tensors: tensors.update({"conv_in.weight": torch.zeros(3, 3)}),
}


@pytest.mark.parametrize("fault", CHANGES)
@pytest.mark.parametrize("folder", ["nf4", "sdnq"], indirect=True)
def test_files_that_are_not_the_network_are_refused(folder: Path, tmp_path: Path, fault: str) -> None:
    with pytest.raises(UserError, match=fault) as error:
        read_denoiser(rewritten(folder, tmp_path / "other", CHANGES[fault]))
    assert "unet" in str(error.value)


@pytest.mark.parametrize("folder", ["torchao_int8"], indirect=True)
def test_classes_that_a_configuration_names_are_not_looked_up(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    file = other / "unet" / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"]["quant_type"] = {"default": {"_type": "quantize_", "_data": {"model": 1}}}
    file.write_text(json.dumps(config))
    ours, theirs = (dict(read_denoiser(place).named_parameters()) for place in (other, folder))
    name = "time_embedding.linear_2.weight"
    assert torch.equal(ours[name].dequantize(), theirs[name].dequantize())


@pytest.mark.parametrize("folder", ["nf4", "torchao_int8"], indirect=True)
def test_pickles_are_not_read(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (file,) = (other / "unet").glob("*.safetensors")
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(UserError, match="must have its weights in safetensors"):
        read_denoiser(other)


@pytest.mark.parametrize("folder", ["torchao_int8"], indirect=True)
def test_tensors_of_torchao_without_their_names_are_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (file,) = (other / "unet").glob("*.safetensors")
    save_file(load_file(file), file)
    with pytest.raises(UserError, match=r"unet must say .*torchao"):
        read_denoiser(other)
