"""Tuning on a device, by every tuner and strategy: nothing mixes, a step waits once, and it copies nothing back."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from pretend import READ, SENT, Looks, on_device
from quantbooth.calibration.quantized_base import WEIGHTS
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.tune import tune
from quantbooth.run.run import Run
from quantbooth.tuning.files import last_step, read_snapshot

pytestmark = pytest.mark.device

Configure = Callable[..., DictConfig]
LOSS = "quantbooth/tuning/module.py"
FINITE = "quantbooth/diffusion/weights.py"
SETTINGS = {
    "scales": "tuner=scales prior=none",
    "scales in and out, s2": "tuner=scales_in_out strategy=s2",
    "shifts, tas, distilled": "tuner=scales_shifts strategy=tas prior=distilled",
    "groups, s1": "tuner=scales tuner.group_size=4 strategy=s1 prior=generated",
    "LoRA, DCO": "tuner=lora quant=fp tuner.dco_beta=1000",
    "QLoRA, s2 apart, pull": "tuner=qlora strategy=s2 strategy.apart=true tuner.pull=0.1",
    "QA-LoRA": "tuner=qa_lora tuner.group_size=4 prior=none",
    "gains and adapters, s1s2": "tuner=scales_lora strategy=s1s2 prior=none",
    "full, EMA, distilled": "tuner=full quant=fp tuner.ema_decay=0.9 prior=distilled",
    "identifier": "tuner.identifier=true tuner.random_flip=true",
    "graded, checkpointing": "strategy=graded resources.gradient_checkpointing=true prior=none",
    "s2 from s1, density": "strategy=s2_from_s1 timesteps=logit_normal prior=none",
    "adaptive": "strategy=adaptive strategy.bins=3 strategy.draws=1 strategy.count=2 tuner=scales prior=none",
    "bfloat16, s2": "trainer.precision=bf16-mixed strategy=s2 prior=distilled",
    "subjects": "subjects=[toy_mug,toy_duck] strategy=s2 prior=distilled",
}


@pytest.mark.parametrize("words", SETTINGS.values(), ids=list(SETTINGS))
def test_a_step_waits_for_its_loss_alone_and_sends_what_it_draws(
    configure: Configure, looks: Looks, words: str
) -> None:
    run = Run(configure(*words.split()))
    if run.calibration.quantized:
        calibrate(run)
    for folder in tune(run):
        assert all(one.isfinite().all() for one in read_snapshot(folder, last_step(folder)).values())
    (step,) = {frozenset(each.waits.items()) for each in looks.steps[1:]}
    ((kind, line), count) = next(iter(step))
    assert (len(step), kind, line.partition(":")[0], count) == (1, READ, LOSS, 1)
    assert all(kind in (READ, SENT) for kind, _ in looks.steps[-1])


@pytest.mark.parametrize("words", ["", "tuner.identifier=true"])
def test_pictures_that_each_step_encodes_are_looked_at_once_each(
    configure: Configure, looks: Looks, words: str
) -> None:
    """A picture that becomes nan is refused by the name of the autoencoder."""
    tune(Run(configure("resources.cache_latents=false", "prior.target=base", *words.split())))
    waits = Counter[str]()
    for (_, line), count in looks.steps[-1].waits.items():
        waits[line.partition(":")[0]] += count
    assert waits == {LOSS: 1, FINITE: 3}


def test_codes_and_gains_are_those_of_the_cpu(configure: Configure, elsewhere: Configure) -> None:
    words = ("strategy=s2", "prior=none", "seed=5")
    here = Run(elsewhere(*words))
    calibrated = [calibrate(here)]
    (expected,) = tune(here)
    with on_device():
        there = Run(configure(*words))
        calibrated += [calibrate(there)]
        (found,) = tune(there)
    torch.testing.assert_close(*(load_file(folder / WEIGHTS) for folder in calibrated), rtol=0, atol=0)
    states = [read_snapshot(folder, 3) for folder in (found, expected)]
    torch.testing.assert_close(*states, rtol=1e-3, atol=1e-4)
