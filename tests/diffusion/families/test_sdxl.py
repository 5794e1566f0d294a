"""SDXL: conditioning and pictures equal those of diffusers' own unet and pipeline."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from quantbooth.calibration.calibration_set import CalibrationSet, sentences, write_states, write_texts
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.sdxl import StableDiffusionXL
from quantbooth.diffusion.pretrained import as_pipeline, load_base
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.export.files import write_pipeline
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.identifier import attach_rows_

MAIN = "unet"
TEXTS = ["a red mug", "a duck on the beach"]
KINDS = pytest.mark.parametrize("name", ["tiny", "tiny-xl"])


@pytest.fixture(scope="module")
def folders(written: Callable[[str], Path]) -> dict[str, Path]:
    return {name: written(name) for name in ("tiny", "tiny-xl")}


def ours(base: Base) -> torch.Tensor:
    return Sampler("ddim", 3, 4.0).sample(base, TEXTS, noise_of(base))


def theirs(pipeline: DiffusionPipeline, noise: torch.Tensor) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(TEXTS, latents=noise, num_inference_steps=3, guidance_scale=4.0, output_type="pt").images


def noise_of(base: Base) -> torch.Tensor:
    return initial_noise(TEXTS, [0, 1], base.latent_shape)


@KINDS
@pytest.mark.chain
def test_plain_diffusers_draws_our_pictures(folders: dict[str, Path], name: str) -> None:
    base = load_base(folders[name], name)
    noise = noise_of(base)
    pipeline = DiffusionPipeline.from_pretrained(str(folders[name]))
    drawn = ours(base)
    for one in (pipeline, as_pipeline(base)):
        torch.testing.assert_close(drawn, theirs(one, noise), rtol=0, atol=1e-5)
    assert drawn.std() > 0.05
    assert base.side == 64


@KINDS
@pytest.mark.chain
def test_a_base_comes_back_bit_for_bit_also_when_exported(folders: dict[str, Path], name: str, tmp_path: Path) -> None:
    base = load_base(folders[name], name)
    state = base.denoiser.state_dict()
    write_pipeline(base, {MAIN: lambda: state}, [(0, 1000, MAIN)], tmp_path, torch.float32)
    again = load_base(tmp_path, name)
    for left, right in zip(base.networks, again.networks, strict=True):
        assert all(torch.equal(tensor, right.state_dict()[key]) for key, tensor in left.state_dict().items())
    one, other = (each.encode_prompts(TEXTS).tensors for each in (base, again))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert again.family == base.family


def test_a_prompt_holds_both_encoders_the_pooled_embedding_and_sizes(folders: dict[str, Path]) -> None:
    base = load_base(folders["tiny-xl"], "tiny-xl")
    with torch.no_grad():
        found = base.encode_prompts(TEXTS)
        ids = base.encoders[1].tokenizer(TEXTS, padding="max_length", max_length=77, return_tensors="pt").input_ids
        other = base.encoders[1].network(ids, output_hidden_states=True)
    assert {name: tuple(tensor.shape) for name, tensor in found.tensors.items()} == {
        "tokens": (2, 77, 48),
        "pooled": (2, 16),
        "sizes": (2, 6),
    }
    assert torch.equal(found.tokens[:, :, 24:], other.hidden_states[-2])
    assert torch.equal(found.extra["pooled"], other.text_embeds)
    assert found.extra["sizes"].tolist() == [[64, 64, 0, 0, 64, 64]] * 2


def test_the_empty_prompt_is_zeros_where_the_base_says_so(folders: dict[str, Path]) -> None:
    base = load_base(folders["tiny-xl"], "tiny-xl")
    assert base.family == StableDiffusionXL(empty_is_zero=True)
    with torch.no_grad():
        found = base.encode_prompts(["", "a"])
        spoken = replace(base, family=StableDiffusionXL(empty_is_zero=False)).encode_prompts(["", "a"])
    assert not found.tokens[0].any()
    assert not found.extra["pooled"][0].any()
    assert found.extra["sizes"][0].tolist() == [64, 64, 0, 0, 64, 64]
    assert all(torch.equal(tensor[1], spoken.tensors[name][1]) for name, tensor in found.tensors.items())
    assert spoken.tokens[0].any()
    assert spoken.extra["pooled"][0].any()


def test_a_prediction_is_what_the_unet_of_diffusers_gives(folders: dict[str, Path]) -> None:
    base, noise = load_base(folders["tiny-xl"], "tiny-xl"), torch.randn(2, 4, 8, 8)
    conditioning, t = base.encode_prompts(TEXTS), torch.tensor([3, 900])
    added = {"text_embeds": conditioning.extra["pooled"], "time_ids": conditioning.extra["sizes"]}
    unet = UNet2DConditionModel.from_pretrained(str(folders["tiny-xl"]), subfolder="unet")
    with torch.no_grad():
        theirs = unet(noise, t, encoder_hidden_states=conditioning.tokens, added_cond_kwargs=added).sample
        assert torch.equal(base.predict(noise, t, conditioning), theirs)


@pytest.mark.parametrize("name", ["pooled", "sizes"])
def test_each_condition_changes_what_is_predicted(folders: dict[str, Path], name: str) -> None:
    base = load_base(folders["tiny-xl"], "tiny-xl")
    with torch.no_grad():
        one = base.encode_prompts(TEXTS)
        other = Conditioning(one.tokens, {**one.extra, name: one.extra[name] + 16})
        left, right = (base.predict(noise_of(base), torch.tensor(500), each) for each in (one, other))
    assert not torch.allclose(left, right)


def test_a_calibration_set_comes_back_from_disk(folders: dict[str, Path], tmp_path: Path) -> None:
    base = load_base(folders["tiny-xl"], "tiny-xl")
    with torch.no_grad():
        texts = base.encode_prompts(sentences(TEXTS))
    states = torch.randn(2, 3, *base.latent_shape)
    write_states(tmp_path, 0, states)
    write_texts(tmp_path, TEXTS, texts, [900.0, 500.5, 7.0], 2)
    items = CalibrationSet(tmp_path).batch(range(12))
    rows = [row for prompt in (1, 2) for _ in range(3) for row in (prompt, 0)]
    assert items.conditioning.tensors.keys() == {"tokens", "pooled", "sizes"}
    for name, tensor in items.conditioning.tensors.items():
        assert tensor.dtype == texts.tensors[name].dtype
        assert torch.equal(tensor, texts.tensors[name][rows]), name
    with torch.no_grad():
        one, other = (base.predict(items.x, items.t, each) for each in (items.conditioning, texts[rows]))
    assert torch.equal(one, other)


def test_no_row_of_two_encoders_is_learned(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"^tuner\.identifier=true needs a base with one text encoder, tiny-xl has 2"):
        attach_rows_(load_base(folders["tiny-xl"], "tiny-xl"), (5,))


def test_another_kind_of_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "KolorsPipeline", "vae": ["diffusers", "AutoencoderKL"]}'
    )
    with pytest.raises(UserError, match=r"the pipeline must be a text-to-image one of .*, found 'KolorsPipeline'$"):
        load_base(tmp_path, "x")


@pytest.mark.parametrize(("index", "zero"), [({}, True), ({"force_zeros_for_empty_prompt": False}, False)], ids=str)
def test_the_folder_says_whether_the_empty_prompt_is_zeros(index: dict[str, bool], zero: bool) -> None:
    assert StableDiffusionXL.from_folder(Path(), index).empty_is_zero is zero
