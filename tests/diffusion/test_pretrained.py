"""Loading and saving of bases, and refusals."""

import json
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantbooth.diffusion.base import Base, frozen
from quantbooth.diffusion.families.ddpm import DDPM_SCHEDULERS
from quantbooth.diffusion.outline import outline
from quantbooth.diffusion.pretrained import empty_denoiser, file_bytes, load_base, read_tokenizers, save_base
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
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (tmp_path / part).glob("*.safetensors")
        assert {tensor.dtype for tensor in load_file(file).values() if tensor.is_floating_point()} == {torch.float16}


def test_bytes_are_those_of_32_bits_whatever_files_the_folder_has(base: Base, folder: Path, tmp_path: Path) -> None:
    whole = sum(weight.nbytes for weight in load_file(next((folder / "unet").glob("*.safetensors"))).values())
    save_base(base, tmp_path, torch.float16)
    (file,) = (tmp_path / "unet").glob("*.safetensors")
    shutil.copy(file, file.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    assert file_bytes(tmp_path) == file_bytes(folder) == whole


def test_a_frozen_base_neither_learns_nor_drops_out(base: Base) -> None:
    one = deepcopy(base)
    one.networks.train().requires_grad_(True)
    assert frozen(one) is one
    assert not any(module.training for network in one.networks for module in network.modules())
    assert not any(parameter.requires_grad for parameter in one.networks.parameters())


def test_checkpointing_is_switched_on_in_the_denoiser(small_base: Base) -> None:
    one = small_base.with_denoiser(deepcopy(small_base.denoiser))
    assert not one.denoiser.is_gradient_checkpointing
    one.enable_gradient_checkpointing_()
    assert one.denoiser.is_gradient_checkpointing


@pytest.mark.parametrize("scheduler", DDPM_SCHEDULERS)
def test_plain_diffusers_loads_the_folder_and_draws_the_same_pictures(base: Base, folder: Path, scheduler: str) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None)
    assert pipeline.config["requires_safety_checker"] is False
    pipeline.scheduler = DDPM_SCHEDULERS[scheduler].from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise(TEXTS, [0, 1], (base.denoiser.config.in_channels, 8, 8))
    theirs = pipeline(TEXTS, latents=noise, num_inference_steps=3, guidance_scale=4.0, output_type="pt").images
    ours = Sampler(scheduler, 3, 4.0).sample(base, TEXTS, noise)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_an_empty_unet_has_the_architecture_and_no_weights(base: Base, folder: Path) -> None:
    denoiser = empty_denoiser(folder)
    assert all(p.is_meta for p in denoiser.parameters())
    assert [n for n, _ in denoiser.named_parameters()] == [n for n, _ in base.denoiser.named_parameters()]


def test_a_folder_that_is_no_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model_index.json is missing; check base.path"):
        load_base(tmp_path, "x")
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AsymmetricAutoencoderKL"]}'
    )
    with pytest.raises(UserError, match="AutoencoderKL, AutoencoderTiny, found 'AsymmetricAutoencoderKL'"):
        load_base(tmp_path, "x")


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model"])
def test_a_truncated_file_is_refused_in_one_line(folder: Path, tmp_path: Path, part: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / f"{part}.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=rf"^{copy}/{part.partition('/')[0]} cannot be read: ") as refused:
        load_base(copy, "x")
    assert "\n" not in str(refused.value)


def edited(folder: Path, destination: Path, part: str, edit: Callable[[dict[str, Tensor]], None]) -> Path:
    """A copy of a base whose weights of one part are changed by `edit`."""
    copy = Path(shutil.copytree(folder, destination))
    (file,) = (copy / part).glob("*.safetensors")
    weights = load_file(file)
    edit(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return copy


PARTS = ("unet", "vae", "text_encoder")


@pytest.mark.parametrize("part", PARTS)
def test_weights_that_are_missing_or_unknown_are_refused_by_name(folder: Path, tmp_path: Path, part: str) -> None:
    (file,) = (folder / part).glob("*.safetensors")
    first = min(load_file(file))

    def removed(weights: dict[str, Tensor]) -> None:
        del weights[first]

    def renamed(weights: dict[str, Tensor]) -> None:
        weights[f"module.{first}"] = weights.pop(first)

    def added(weights: dict[str, Tensor]) -> None:
        weights["extra"] = torch.ones(1)

    for edit, said in ((removed, f"lacks {first}"), (renamed, f"lacks {first}"), (added, "network of its kind: extra")):
        copy = edited(folder, tmp_path / edit.__name__, part, edit)
        with pytest.raises(UserError, match=rf"^{copy}/{part} .*{re.escape(said)} \(1 such\)"):
            load_base(copy, "x")


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("unet/config.json", {"down_block_types": ["Nothing", "Nothing"]}),
        ("unet/config.json", {"block_out_channels": "wide"}),
        ("unet/config.json", {"block_out_channels": [10**12, 10**12]}),
        ("unet/config.json", {"attention_head_dim": 0}),
        ("unet/config.json", {"norm_num_groups": 7}),
        ("unet/config.json", {"act_fn": "nothing"}),
        ("unet/config.json", {"layers_per_block": None}),
        ("vae/config.json", {"num_decoder_blocks": [1]}),
        ("vae/config.json", {"encoder_block_out_channels": {"a": 1}}),
        ("text_encoder/config.json", {"hidden_act": "nothing"}),
        ("text_encoder/config.json", {"num_attention_heads": 5}),
        ("text_encoder/config.json", {"num_hidden_layers": "two"}),
        ("text_encoder/config.json", {"vocab_size": 7}),
        ("text_encoder/config.json", {"attn_implementation": "flash_attention_2"}),
        ("tokenizer/tokenizer.json", {"model": 3}),
        ("tokenizer/tokenizer_config.json", {"pad_token": 5}),
    ],
)
def test_a_configuration_of_a_network_that_cannot_be_is_one_line(
    folder: Path, tmp_path: Path, file: str, changes: dict[str, Any]
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / file).write_text(json.dumps({**json.loads((copy / file).read_text()), **changes}))
    with pytest.raises(UserError, match=rf"^{copy}/{file.partition('/')[0]}\b") as refused:
        load_base(copy, "x")
    assert "\n" not in str(refused.value)
    if "nothing" in changes.values() and file.startswith("unet"):  # also where no weights are read
        with pytest.raises(UserError, match=rf"^{copy}/unet\b"):
            outline(copy, "x")


@pytest.mark.parametrize("part", PARTS)
def test_weights_of_another_shape_are_named(folder: Path, tmp_path: Path, part: str) -> None:
    (file,) = (folder / part).glob("*.safetensors")
    first = min(load_file(file))
    copy = edited(folder, tmp_path / "copy", part, lambda weights: weights.update({first: torch.ones(3)}))
    with pytest.raises(UserError, match=rf"^{copy}/{part} .*another shape.*{re.escape(first)}"):
        load_base(copy, "x")


def _copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.bool, torch.complex64], ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_weights_that_are_no_floating_point_numbers_are_refused(
    folder: Path, tmp_path: Path, part: str, dtype: torch.dtype
) -> None:
    """Codes of another quantizer would be taken for weights, and the imaginary part of a number left out."""
    copy = _copy(folder, tmp_path)
    (file,) = (copy / part).glob("*.safetensors")
    weights = load_file(file)
    name = max(weights, key=lambda each: weights[each].numel())
    save_file({**weights, name: weights[name].to(dtype)}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"{re.escape(file.name)}: {re.escape(name)} .* found [IBC]"):
        load_base(copy, "copy")


def test_a_text_encoder_is_read_as_exactly_as_its_file(base: Base, folder: Path, tmp_path: Path) -> None:
    """As by diffusers in float32; transformers would round the weights to the dtype of the configuration."""
    copy = _copy(folder, tmp_path)
    config = copy / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float16"}))
    assert torch.equal(load_base(copy, "copy").encode_prompts(TEXTS).tokens, base.encode_prompts(TEXTS).tokens)


@pytest.mark.parametrize("part", PARTS)
def test_a_list_of_parts_that_leaves_its_folder_is_refused(folder: Path, tmp_path: Path, part: str) -> None:
    copy = _copy(folder, tmp_path)
    (file,) = (copy / part).glob("*.safetensors")
    file.rename(tmp_path / "elsewhere.safetensors")
    names = dict.fromkeys(load_file(tmp_path / "elsewhere.safetensors"), "../../elsewhere.safetensors")
    file.with_name(f"{file.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    with pytest.raises(UserError, match=r"index\.json .*'\.\./\.\./elsewhere\.safetensors'"):
        load_base(copy, "copy")


@pytest.mark.parametrize("lost", ["tokenizer.json", "vocab"])
def test_a_tokenizer_without_words_is_refused(folder: Path, tmp_path: Path, lost: str) -> None:
    """Transformers makes one of no files, which reads every prompt as the same tokens."""
    copy = _copy(folder, tmp_path)
    file = copy / "tokenizer" / "tokenizer.json"
    said = json.loads(file.read_text())
    said["model"] = {**said["model"], "vocab": {"<|startoftext|>": 0, "<|endoftext|>": 1}, "merges": []}
    file.unlink() if lost == file.name else file.write_text(json.dumps(said))
    with pytest.raises(UserError, match=re.escape(str(copy / "tokenizer"))):
        read_tokenizers(copy)


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(base: Base, tmp_path: Path) -> None:
    (encoder,) = base.encoders
    grown = deepcopy(encoder.tokenizer)
    grown.add_tokens(["<new>"])
    save_base(replace(base, encoders=(replace(encoder, tokenizer=grown),)), tmp_path, torch.float32)
    size = len(grown)
    with pytest.raises(UserError, match=rf"tokenizer of .* has {size} tokens, more than vocab_size = {size - 1} "):
        load_base(tmp_path, "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", PARTS)
def test_weights_that_are_not_finite_are_refused_by_name(folder: Path, tmp_path: Path, part: str, value: float) -> None:
    (file,) = (folder / part).glob("*.safetensors")
    first = min(load_file(file))

    def spoil(weights: dict[str, Tensor]) -> None:
        weights[first].view(-1)[-1] = value

    copy = edited(folder, tmp_path / "copy", part, spoil)
    with pytest.raises(UserError, match=rf"^{copy}/{part}: \S*{re.escape(first)} must be finite"):
        load_base(copy, "x")


def test_pictures_and_latents_that_are_not_finite_name_what_made_them(small_base: Base) -> None:
    latents = torch.zeros(1, *small_base.latent_shape)
    with pytest.raises(UserError, match=r"^the denoiser of .* ends in nan or infinity"):
        small_base.decode_latents(latents + float("nan"))
    broken = replace(small_base, autoencoder=deepcopy(small_base.autoencoder))
    with torch.no_grad():
        next(broken.autoencoder.decoder.parameters()).fill_(float("nan"))
        next(broken.autoencoder.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match=r"^the autoencoder of .* decodes to nan or infinity"):
        broken.decode_latents(latents)
    with pytest.raises(UserError, match=r"^the autoencoder of .* encodes pictures to nan or infinity"):
        broken.encode_images(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("part", ["denoiser", "autoencoder", "text_encoder"])
def test_weights_too_large_for_half_precision_are_refused_at_export(
    small_base: Base, tmp_path: Path, part: str
) -> None:
    base = deepcopy(small_base)
    with torch.no_grad():
        next(getattr(base, part).parameters()).view(-1)[0] = 1e6
    with pytest.raises(UserError, match=r"has numbers too large for export\.precision=float16; choose float32$"):
        save_base(base, tmp_path / "half", torch.float16)
    save_base(base, tmp_path / "whole", torch.float32)


def test_a_saved_base_does_not_tell_where_it_was_loaded_from(base: Base, tmp_path: Path) -> None:
    """A folder of a person's machine belongs into no file that travels."""
    save_base(base, tmp_path / "first", torch.float32)
    save_base(load_base(tmp_path / "first", "base"), tmp_path / "second", torch.float32)
    files = [file for file in (tmp_path / "second").rglob("*") if file.is_file()]
    assert [file.name for file in files if str(tmp_path).encode() in file.read_bytes()] == []
