"""Whole chains on a device: nothing mixes devices, and every picture is scored."""

from collections.abc import Callable

import numpy as np
import pytest
from omegaconf import DictConfig

from quantbooth.commands import pipeline
from quantbooth.evaluation.files import read_rows

pytestmark = [pytest.mark.chain, pytest.mark.device]

Configure = Callable[..., DictConfig]
CHAINS = {
    "previews, checkpoints": "strategy=s2 preview.validation_steps=2 resources.checkpoint_every=0 "
    "trainer.log_every_n_steps=1",
    "subjects": "subjects=[toy_mug,toy_duck] strategy=s1s2 protocol.prior_prompts=1 protocol.seeds=[0,1]",
    "learned": "quant=w4a8 calibration=qdiffusion calibration.set.count=2 calibration.set.timesteps=2 "
    "calibration.rounding.iterations=2 calibration.rounding.batch=2 calibration.activations.iterations=2 "
    "calibration.activations.batch=2 prior=none",
    "bfloat16": "trainer.precision=bf16-mixed strategy=s2 prior=distilled",
    "stopping": "tuner.stopping.every=1 tuner.stopping.window=2 prior=none",
}


@pytest.mark.usefixtures("looks")
@pytest.mark.parametrize(
    "words",
    [pytest.param(CHAINS[one], marks=pytest.mark.slow if one == "bfloat16" else [], id=one) for one in CHAINS],
)
def test_pictures_are_scored(configure: Configure, words: str) -> None:
    rows = [read_rows(folder) for folder in pipeline.job(configure(*words.split()))]
    assert all(np.isfinite(each[["clip_t", "clip_i"]].dropna()).all(axis=None) for each in rows)
    assert sum(each["clip_t"].notna().sum() for each in rows) >= 2
