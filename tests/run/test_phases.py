"""What a run needs first leaves memory first: text encoders, then the autoencoder, then the denoiser comes."""

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from omegaconf import DictConfig
from PIL import Image
from transformers import CLIPTextModel

from quantbooth.calibration.quantized_base import read_quantized_denoiser
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.sample import sample
from quantbooth.commands.tune import tune
from quantbooth.diffusion.sampler import initial_noise
from quantbooth.run.models import untuned_base
from quantbooth.run.run import Run

Compose = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "prior=none", "tuner.steps=2", "sampler.steps=2"),
    *("preview.validation_steps=2", "protocol.prompt_stride=12", "subject=toy_fish"),
)


def in_memory(kind: type[torch.nn.Module]) -> int:
    """Return how many networks of a class have weights."""
    gc.collect()
    networks = [held for held in gc.get_objects() if type(held) is kind]
    return sum(next(network.parameters()).device.type != "meta" for network in networks)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return the text encoders and autoencoders that are in memory whenever a quantized denoiser is read."""
    kinds = (CLIPTextModel, AutoencoderTiny)
    found, before = list[tuple[int, int]](), [in_memory(kind) for kind in kinds]

    def noted(*args: Path) -> torch.nn.Module:
        found.append((in_memory(kinds[0]) - before[0], in_memory(kinds[1]) - before[1]))
        return read_quantized_denoiser(*args)

    monkeypatch.setattr("quantbooth.run.load.read_quantized_denoiser", noted)
    return found


@pytest.mark.chain
def test_text_encoders_are_gone_when_the_denoiser_is_read_and_in_tuning_the_autoencoder_too(
    compose: Compose, tmp_path: Path, beside: list[tuple[int, int]]
) -> None:
    run = Run(compose(tmp_path, *QUICK))
    calibrate(run)
    beside.clear()
    tune(run)
    assert beside == [(0, 0), (0, 0)]  # training, and the photos' errors
    beside.clear()
    sample(run)
    assert set(beside) == {(0, 1)}


@pytest.mark.chain
def test_a_learned_identifier_keeps_the_text_encoder_that_it_is_learned_in(
    compose: Compose, tmp_path: Path, beside: list[tuple[int, int]]
) -> None:
    run = Run(compose(tmp_path, *QUICK, "tuner.identifier=true"))
    calibrate(run)
    beside.clear()
    tune(run)
    assert beside[0] == (1, 1)
    assert len(sample(run)) == 2


def test_prompts_that_were_encoded_first_have_the_rows_of_the_whole_base(compose: Compose, tmp_path: Path) -> None:
    run, texts = Run(compose(tmp_path, *QUICK, "quant=fp")), ["a photo of a mug", "", "a photo of a mug"]
    whole, first = untuned_base(run), untuned_base(run, texts)
    one_by_one = torch.cat([whole.encode_prompts([text]).tokens for text in texts])
    assert torch.equal(first.encode_prompts(texts).tokens, one_by_one)
    assert not first.encoders
    with pytest.raises(KeyError, match="a cat"):
        first.encode_prompts(["a cat"])


def test_pictures_are_those_of_the_base_with_its_text_encoders(compose: Compose, tmp_path: Path) -> None:
    run = Run(compose(tmp_path, *QUICK, "quant=fp", "tuner=full", "protocol.eval_steps=[0]"))
    whole = untuned_base(run)
    one = run.only
    requests = one.requests()
    noise = initial_noise([each.prompt for each in requests], [each.seed for each in requests], whole.latent_shape)
    drawn = run.sampler.sample(whole, [each.text for each in requests], noise)
    tune(run)
    folder = next(each for each in sample(run) if "base" in each.name)
    for request, picture in zip(requests, drawn, strict=True):
        file = np.asarray(Image.open(folder / request.file), dtype=float).transpose(2, 0, 1)
        assert np.abs(file - 255 * picture.numpy()).max() <= 1
