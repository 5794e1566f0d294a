"""Loading and saving of bases, and refusals."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import empty_denoiser, load_base, save_base
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.runtime.errors import UserError

TEXTS = ["a red mug", "a duck on the beach"]


@pytest.fixture(scope="module")
def folder(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    save_base(base, path, torch.float32)
    return path


def test_a_saved_base_comes_back_bit_for_bit(base: Base, folder: Path) -> None:
    again = load_base(folder, "toy")
    for part in ("denoiser", "autoencoder", "text_encoder"):
        for name, tensor in getattr(base, part).state_dict().items():
            assert torch.equal(tensor, getattr(again, part).state_dict()[name]), (part, name)
    assert torch.equal(base.encode_prompts(TEXTS).tokens, again.encode_prompts(TEXTS).tokens)


def test_saving_leaves_the_base_as_it_was(base: Base, tmp_path: Path) -> None:
    save_base(base, tmp_path, torch.float16)
    assert base.denoiser.dtype == torch.float32


def test_plain_diffusers_loads_the_folder_and_draws_the_same_pictures(base: Base, folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise(TEXTS, [0, 1], (base.denoiser.config.in_channels, 8, 8))
    theirs = pipeline(TEXTS, latents=noise, num_inference_steps=3, guidance_scale=4.0, output_type="pt").images
    ours = Sampler("ddim", 3, 4.0).sample(base, TEXTS, noise)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_an_empty_unet_has_the_architecture_and_no_weights(base: Base, folder: Path) -> None:
    denoiser = empty_denoiser(folder)
    assert all(p.is_meta for p in denoiser.parameters())
    assert [n for n, _ in denoiser.named_parameters()] == [n for n, _ in base.denoiser.named_parameters()]


def test_a_folder_that_is_no_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model_index.json is missing; check base.path"):
        load_base(tmp_path, "x")
    (tmp_path / "model_index.json").write_text('{"vae": ["diffusers", "AsymmetricAutoencoderKL"]}')
    with pytest.raises(UserError, match="AutoencoderKL, AutoencoderTiny, found 'AsymmetricAutoencoderKL'"):
        load_base(tmp_path, "x")


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model"])
def test_a_truncated_file_is_refused_in_one_line(folder: Path, tmp_path: Path, part: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / f"{part}.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read as a base: ") as refused:
        load_base(copy, "x")
    assert "\n" not in str(refused.value)


def test_a_saved_base_does_not_tell_where_it_was_loaded_from(base: Base, tmp_path: Path) -> None:
    """A folder of a person's machine belongs into no file that travels."""
    save_base(base, tmp_path / "first", torch.float32)
    save_base(load_base(tmp_path / "first", "base"), tmp_path / "second", torch.float32)
    files = [file for file in (tmp_path / "second").rglob("*") if file.is_file()]
    assert [file.name for file in files if str(tmp_path).encode() in file.read_bytes()] == []
