"""The shipped flow base: plain diffusers draws its pictures, they show what captions ask for, all steps run on it."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from composing import composed
from quantbooth.commands.pipeline import job
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import load_base
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.evaluation.files import read_rows
from quantbooth_toyworld.judges import load_oracle
from quantbooth_toyworld.questions import accuracies, held_out_captions
from quantbooth_toyworld.shipped import base_folder, flow_folder, judges_folder

WEIGHTS = "diffusion_pytorch_model.safetensors"
TEXTS = ["a red mug on the beach", "a green duck in the snow"]


@pytest.fixture(scope="module")
def flow() -> Base:
    return load_base(flow_folder(), "toy_flow")


def test_plain_diffusers_draws_the_same_pictures(flow: Base) -> None:
    noise = initial_noise(TEXTS, [0, 1], flow.latent_shape)
    options = {"text_encoder_3": None, "tokenizer_3": None, "torch_dtype": torch.float32}
    pipeline = DiffusionPipeline.from_pretrained(str(flow_folder()), **options)
    pipeline.set_progress_bar_config(disable=True)
    steps = {"num_inference_steps": 4, "guidance_scale": 4.0, "height": 32, "width": 32, "output_type": "pt"}
    theirs = pipeline(prompt=TEXTS, latents=noise, **steps).images
    torch.testing.assert_close(Sampler("flow_euler", 4, 4.0).sample(flow, TEXTS, noise), theirs, rtol=0, atol=1e-5)


def test_its_pictures_are_what_captions_ask_for(flow: Base) -> None:
    """In fewer steps than the card's, of captions that no training drew; a guess is right in 1 of 8 classes."""
    held, oracle = held_out_captions(24, seed=5), load_oracle(judges_folder())
    texts = [caption.text for caption in held]
    noise = initial_noise(texts, [0] * len(texts), flow.latent_shape)
    pictures = Sampler("flow_euler", 8, 4.0).sample(flow, texts, noise)
    found = accuracies(oracle.probabilities(pictures), oracle.names, [caption.asked for caption in held])
    assert found["class_word"] > 0.6
    assert found["context"] > 0.9
    assert found["colour"] > 0.8


def test_it_is_small_and_has_the_autoencoder_of_the_toy_base(flow: Base) -> None:
    files = [file for file in flow_folder().rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 20e6
    one, other = (folder / "vae" / WEIGHTS for folder in (flow_folder(), base_folder()))
    assert one.read_bytes() == other.read_bytes()
    card = (flow_folder().parent / "README.md").read_text()
    weights = sum(parameter.numel() for parameter in flow.denoiser.parameters())
    assert f"denoiser: {weights:,} parameters" in card


def test_its_zones_are_those_that_the_probe_measured(repository: Path) -> None:
    document = (repository / "experiments" / "zones_of_the_flow_base.md").read_text()
    measured = re.search(r"\*\*Zones that follow: (.*?)\.\*\*", document)
    assert measured is not None
    zones = composed("base=toy_flow").base.zones
    assert measured[1] == ", ".join(f"{name} [{first}, {end})" for name, (first, end) in zones.items())
    assert zones.clean_up[0] == 0 and zones.coarse[1] == 1000


@pytest.mark.chain
def test_it_is_quantized_tuned_drawn_and_scored(tmp_path: Path) -> None:
    quick = ["tuner.steps=4", "sampler.steps=3", "protocol.prompt_stride=13", "prior.num_class_images=2"]
    given = ["base=toy_flow", "sampler=flow_euler", "strategy=s2", "calibration=mse", "subject=toy_mug"]
    rows = read_rows(job(composed(*given, *quick, f"paths.outputs={tmp_path}", "preview.validation_steps=0"))[-1])
    assert rows[["clip_t", "clip_i", "local_clip_i", "oracle_subject"]].notna().all(axis=None)
