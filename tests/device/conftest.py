"""The pretended device for tests, and a tiny base that was calibrated on it."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from omegaconf import DictConfig

from pretend import Looks, on_device
from quantbooth.commands.calibrate import calibrate
from quantbooth.run.run import Run
from small_networks import network

__all__ = ["configure", "elsewhere", "looks", "network"]

Configure = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "tuner.steps=3"),
    *("preview.validation_steps=0", "resources.checkpoint_every=3600", "protocol.prompt_stride=25"),
)
PRIOR = ("prior.num_class_images=2", "prior.class_batch_size=1")


def quickly(compose: Configure, outputs: Path, *words: str) -> DictConfig:
    """Compose with the options of a quick run; those of class pictures contradict prior=none."""
    return compose(outputs, *QUICK, *(() if "prior=none" in words else PRIOR), *words)


@pytest.fixture
def looks() -> Iterator[Looks]:
    """What was noted on the device, on which trainers run in this test."""
    with on_device() as noted:
        yield noted


@pytest.fixture(scope="package")
def configure(compose: Configure, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration on a tiny untrained base that was quantized on the device; all share one store."""
    make = partial(quickly, compose, Path(tmp_path_factory.mktemp("device")) / "out")
    with on_device():
        calibrate(Run(make()))
    return make


@pytest.fixture
def elsewhere(compose: Configure, tmp_path: Path) -> Configure:
    """Makes the same configuration with a store of the test's own."""
    return partial(quickly, compose, tmp_path / "out")
