"""quantbooth-tune with priors of many prompts and of the base's own prediction, by every tuner."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.tune import tune
from quantbooth.run.run import Run
from quantbooth.sampling.image_set import read_requests
from quantbooth.tuning.files import read_snapshot

pytestmark = pytest.mark.chain

Configure = Callable[..., DictConfig]
Compose = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "subject=toy_mug"),
    *("tuner.steps=3", "preview.validation_steps=0", "protocol.prompt_stride=25"),
)


@pytest.fixture(scope="module")
def configure(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    make = partial(compose, tmp_path_factory.mktemp("prior") / "out", *QUICK)
    calibrate(Run(make()))
    return make


def learned(run: Run) -> dict[str, torch.Tensor]:
    return read_snapshot(tune(run)[0], 3)


def test_class_pictures_take_turns_through_the_prompts(configure: Configure) -> None:
    run = Run(configure("prior.class_prompts=['a big {}','a {} at home']", "prior.num_class_images=5"))
    found = learned(run)
    requests = read_requests(run.subjects[0].prior.require())
    texts = ["a big mug", "a mug at home", "a big mug", "a mug at home", "a big mug"]
    assert [(one.text, one.seed, one.file) for one in requests] == [(t, n, f"{n}.png") for n, t in enumerate(texts)]
    plain = learned(Run(configure("prior.num_class_images=5")))
    assert any(not torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    "options",
    [
        ("prior=distilled",),
        ("prior=distilled", "strategy=s2", "tuner=scales_in_out", "tuner.random_flip=true"),
        ("prior=distilled", "strategy=s2", "strategy.apart=true", "tuner.pull=0.1"),
        ("prior=distilled", "prior.class_prompts=['a big {}','a {} at home']", "tuner.identifier=true"),
        ("prior=generated", "prior.class_prompts=['a big {}']", "prior.num_class_images=3", "tuner.random_flip=true"),
        ("prior=distilled", "prior.num_class_images=2", "tuner.dco_beta=100.0"),
        ("prior=none", "tuner.dco_beta=100.0"),
        ("prior=distilled", "tuner=full", "quant=fp", "tuner.pull=0.01", "tuner.dco_beta=100.0"),
        ("prior=distilled", "tuner=lora", "quant=fp", "tuner.pull=0.01"),
        ("prior=distilled", "tuner=qlora", "tuner.dco_beta=100.0"),
    ],
    ids=" ".join,
)
def test_each_learns_something_else_and_checkpointing_changes_nothing(
    configure: Configure, options: tuple[str, ...]
) -> None:
    found = learned(Run(configure(*options)))
    others = [each for each in options if not each.startswith(("prior", "tuner."))]
    plain = learned(Run(configure(*others, "prior=generated", "prior.num_class_images=2")))
    assert any(not torch.equal(found[name], plain[name]) for name in plain)
    store = "paths.store=${paths.outputs}/again"
    twin = Run(configure(*options, store, "resources.gradient_checkpointing=true", "resources.cache_latents=false"))
    if twin.calibration.bits is not None:
        calibrate(twin)
    assert all(torch.allclose(found[name], one, atol=1e-6) for name, one in learned(twin).items())


def test_a_distilled_prior_makes_no_class_pictures(configure: Configure, tmp_path: Path) -> None:
    run = Run(configure("prior=distilled", f"paths.store={tmp_path}"))
    calibrate(run)
    tune(run)
    assert not (tmp_path / "image_set").exists()


def test_several_subjects_with_a_distilled_prior_learn_as_each_alone(configure: Configure) -> None:
    options = ("prior=distilled", "tuner.dco_beta=100.0", "tuner.pull=0.1")
    run = Run(configure(*options, "subjects=[toy_mug,toy_duck]", "paths.store=${paths.outputs}/both"))
    calibrate(run)
    both = tune(run)
    for folder, subject in zip(both, ("toy_mug", "toy_duck"), strict=True):
        alone, found = learned(Run(configure(*options, f"subject={subject}"))), read_snapshot(folder, 3)
        assert all(torch.allclose(found[name], one, atol=1e-5) for name, one in alone.items())
