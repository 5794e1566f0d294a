"""GGUF files: names of the original code, numbers that nothing reads, and files of something else."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.random_base import random_base
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.lora_names import original_name
from quantbooth.diffusion.pretrained import read_denoiser
from quantbooth.quant.stored import stored_layers
from quantbooth.runtime.errors import UserError
from stored_bases import write_gguf, write_stored


def original(base: Base) -> dict[str, Tensor]:
    """Return the denoiser's weights in names of the original code."""
    state = base.denoiser.state_dict()
    return {f"model.diffusion_model.{original_name(base.denoiser, name)}": one for name, one in state.items()}


def test_a_file_in_names_of_the_original_code_is_the_same_denoiser(tmp_path: Path) -> None:
    base = random_base("tiny")
    folder = write_stored(tmp_path, "gguf", base)
    expected = read_denoiser(folder)
    write_gguf(folder / "unet" / "denoiser.gguf", original(base))
    found = read_denoiser(folder)
    assert len(list(stored_layers(found))) == len(list(stored_layers(expected))) > 10
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_numbers_that_no_layer_reads_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = random_base("tiny")
    folder = write_stored(tmp_path, "gguf", base)
    write_gguf(folder / "unet" / "denoiser.gguf", {**original(base), "model.diffusion_model.b": torch.zeros(7)})
    read_denoiser(folder)
    assert "denoiser.gguf" in (said := capsys.readouterr().err)
    assert ", 7 more than the UNet2DConditionModel in config.json" in said


def test_numbers_in_bfloat16_are_floats_and_have_no_gains(tmp_path: Path) -> None:
    base = random_base("tiny")
    folder = write_stored(tmp_path, "gguf", base)
    coded = {name for name, _ in stored_layers(read_denoiser(folder))}
    write_gguf(folder / "unet" / "denoiser.gguf", base.denoiser.state_dict(), "BF16")
    found = read_denoiser(folder)
    assert {name for name, _ in stored_layers(found)} == coded
    for name, tensor in base.denoiser.state_dict().items():
        if not (name.endswith("weight") and name.rpartition(".")[0] in coded):
            assert torch.equal(found.state_dict()[name], tensor.bfloat16().float()), name


def test_codes_of_what_is_no_layer_are_dequantized(tmp_path: Path) -> None:
    base, tokens = random_base("tiny-zimage"), ("x_pad_token", "cap_pad_token")
    for name in tokens:
        torch.nn.init.normal_(base.denoiser.get_parameter(name))
    found, state = read_denoiser(write_stored(tmp_path, "gguf", base)), base.denoiser.state_dict()
    for name in tokens:
        assert (tensor := found.get_parameter(name)).shape == state[name].shape
        assert 0 < (tensor - state[name]).abs().max() < 0.2 * state[name].abs().max()


@pytest.mark.parametrize("names", [("another",), ("conv_in.weight",)])
def test_a_file_of_another_network_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = write_stored(tmp_path, "gguf")
    write_gguf(folder / "unet" / "denoiser.gguf", {name: torch.zeros(4, 32) for name in names})
    with pytest.raises(UserError, match=r"unet"):
        read_denoiser(folder)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = write_stored(tmp_path, "gguf")
    file = folder / "unet" / "denoiser.gguf"
    for content in (b"", b"GGUF", b"\x80\x04K\x01.", file.read_bytes()[:5000]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"unet"):
            read_denoiser(folder)
