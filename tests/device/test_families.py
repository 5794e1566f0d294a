"""Bases of all families on a device: what a tuned base draws is that of the CPU, and a step waits once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from composing import composed
from experiments.random_base import random_base
from pretend import READ, SENT, TO_DEVICE, on_device
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.sample import sample
from quantbooth.commands.tune import tune
from quantbooth.diffusion.families.registry import family_in
from quantbooth.diffusion.pretrained import save_base
from quantbooth.run.run import Run

pytestmark = [pytest.mark.chain, pytest.mark.device]

FAMILIES = {
    "tiny-xl": "base=sdxl",
    "tiny-sd3": "base=sd35_medium sampler=flow_euler",
    "tiny-flux1": "base=flux1_dev sampler=flow_euler sampler.guidance=1",
    "tiny-klein": "base=klein_4b sampler=flow_euler timesteps=shifted",
    "tiny-chroma": "base=chroma sampler=flow_euler",
    "tiny-qwen-image": "base=qwen_image sampler=flow_euler",
    "tiny-zimage": "base=zimage sampler=flow_euler",
    "tiny-sana": "base=sana sampler=flow_euler",
    "tiny-pixart": "base=pixart_sigma",
}
QUICKLY = ("tiny-klein", "tiny-chroma", "tiny-zimage")
"""A transformer of each kind of STEPS; other tests have a unet."""
STEPS = {  # what diffusers copies within a denoiser's call, and how often a step waits beside
    "tiny-chroma": ({TO_DEVICE: 1}, 1),
    "tiny-qwen-image": ({TO_DEVICE: 1}, 1),
    "tiny-zimage": ({}, 2),  # it takes prompts as a list, cut to their lengths
}
QUICK = (
    *("base.resolution=64", "sampler.steps=2", "tuner.steps=3", "preview.validation_steps=0", "strategy=s2"),
    *("tuner.learning_rate=0.1", "protocol.prompt_stride=25", "prior=none", "calibration=minmax", "locator=whole"),
    *("subject=folder", "subject.class_word=dog", "subject.live=true"),
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICKLY else pytest.mark.slow) for name in FAMILIES]
)
def test_pictures_of_what_was_tuned_are_those_of_the_cpu(tmp_path: Path, name: str) -> None:
    save_base(random_base(name), tmp_path / "base", torch.float16)
    (tmp_path / "rex").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (90, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "rex" / "0.png")
    given = (*FAMILIES[name].split(), *QUICK, f"base.path={tmp_path}/base", f"subject.path={tmp_path}/rex")

    def made(place: str) -> np.ndarray:
        run = Run(composed(*given, f"paths.outputs={tmp_path}/{place}"))
        calibrate(run)
        tune(run)
        return np.stack([np.asarray(Image.open(file), dtype=int) for file in sorted(sample(run)[0].glob("*.png"))])

    with on_device() as looks:
        found = made("there")
    expected = made("here")
    assert np.abs(found - expected).max() <= 1
    inside, beside = STEPS.get(name, ({}, 1))
    for step in looks.steps[1:]:  # the first makes tables
        assert {kind for kind, _ in step} <= {READ, SENT, *inside}
        assert sum(step.waits.values()) == beside + sum(inside.values())
    assert family_in(tmp_path / "base").recordable == (not inside)
