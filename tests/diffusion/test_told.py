"""SDXL: what its unet is told rides in a row of the sentence, and pictures are those of diffusers' own pipeline."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from experiments.random_base import random_base
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.exported import MAIN, write_pipeline
from quantbooth.diffusion.identifier import attach_rows_
from quantbooth.diffusion.pretrained import as_pipeline, load_base, save_base
from quantbooth.diffusion.sampling import Sampler, initial_noise
from quantbooth.diffusion.told import with_sizes
from quantbooth.errors import UserError

TEXTS = ["a red mug", "a duck on the beach"]
KINDS = pytest.mark.parametrize("name", ["tiny", "tiny-xl"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in ("tiny", "tiny-xl")}
    for name, folder in made.items():
        save_base(random_base(name), folder, torch.float32)
    return made


def ours(base: Base) -> torch.Tensor:
    return Sampler("ddim", 3, 4.0).sample(base, TEXTS, noise_of(base))


def theirs(pipeline: DiffusionPipeline, noise: torch.Tensor) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(TEXTS, latents=noise, num_inference_steps=3, guidance_scale=4.0, output_type="pt").images


def noise_of(base: Base) -> torch.Tensor:
    return initial_noise(TEXTS, [0, 1], (4, base.unet.config.sample_size, base.unet.config.sample_size))


@KINDS
def test_plain_diffusers_draws_our_pictures(folders: dict[str, Path], name: str) -> None:
    base = load_base(folders[name], name)
    noise = noise_of(base)
    pipeline = DiffusionPipeline.from_pretrained(str(folders[name]))
    torch.testing.assert_close(ours(base), theirs(pipeline, noise), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours(base), theirs(as_pipeline(base), noise), rtol=0, atol=1e-5)
    assert ours(base).std() > 0.05
    assert base.side == 64


@KINDS
def test_a_base_comes_back_bit_for_bit_also_when_exported(folders: dict[str, Path], name: str, tmp_path: Path) -> None:
    base = load_base(folders[name], name)
    state = base.unet.state_dict()
    write_pipeline(base, {MAIN: lambda: state}, [(0, 1000, MAIN)], tmp_path, torch.float32)
    again = load_base(tmp_path, name)
    for left, right in zip(base.networks, again.networks, strict=True):
        assert all(torch.equal(tensor, right.state_dict()[key]) for key, tensor in left.state_dict().items())
    assert torch.equal(base.encode_texts(TEXTS), again.encode_texts(TEXTS))


def test_a_sentence_holds_both_encoders_the_pooled_embedding_and_sizes(folders: dict[str, Path]) -> None:
    base = load_base(folders["tiny-xl"], "tiny-xl")
    assert base.second is not None
    with torch.no_grad():
        text = base.encode_texts(TEXTS)
        ids = base.second.tokenizer(TEXTS, padding="max_length", max_length=77, return_tensors="pt").input_ids
        other = base.second.text_encoder(ids, output_hidden_states=True)
    assert text.shape == (2, 78, 48)
    assert torch.equal(text[:, :77, 24:], other.hidden_states[-2])
    assert torch.equal(text[:, 77, :16], other.text_embeds)
    assert text[:, 77, 16:].tolist() == [[64, 64, 0, 0, 64, 64, *[0] * 26]] * 2


def test_the_empty_sentence_is_zeros_where_the_base_says_so(folders: dict[str, Path]) -> None:
    base = load_base(folders["tiny-xl"], "tiny-xl")
    assert base.second is not None
    with torch.no_grad():
        zero, said = base.encode_texts(["", "a"])
        spoken = replace(base, second=replace(base.second, empty_is_zero=False)).encode_texts(["", "a"])
    assert not zero[:77].any()
    assert zero[77].tolist() == [*[0] * 16, 64, 64, 0, 0, 64, 64, *[0] * 26]
    assert torch.equal(spoken[1], said)
    assert spoken[0][:77].any()


def test_sizes_change_what_the_unet_predicts(folders: dict[str, Path]) -> None:
    base = load_base(folders["tiny-xl"], "tiny-xl")
    hidden, pooled = torch.randn(1, 77, 48), torch.randn(1, 16)
    with torch.no_grad():
        one, other = (
            base.unet(noise_of(base)[:1], 500, with_sizes(hidden, pooled, side)).sample for side in (64, 1024)
        )
    assert not torch.allclose(one, other)


def test_no_row_of_two_encoders_is_learned(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"^tuner\.identifier=true needs a base with one text encoder, tiny-xl has two"):
        attach_rows_(load_base(folders["tiny-xl"], "tiny-xl"), (5,))


def test_another_kind_of_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline", "vae": ["diffusers", "AutoencoderKL"]}')
    with pytest.raises(UserError, match=r"the pipeline must be a text-to-image one of .*, found 'FluxPipeline'$"):
        load_base(tmp_path, "x")
