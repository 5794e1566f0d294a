"""What a manifest says about overfitting is measured on the tuned base that is served later."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from omegaconf import DictConfig

from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.tune import tune
from quantbooth.run.models import tuned_base, untuned_base
from quantbooth.run.run import Run
from quantbooth.tuning.overfitting import errors_by_bin

pytestmark = [pytest.mark.chain, pytest.mark.usefixtures("all_bins")]

Configure = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "prior=none", "tuner.steps=2"),
    *("tuner.learning_rate=0.1", "preview.validation_steps=0"),
)


@pytest.fixture(scope="module")
def configure(compose: Configure, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration on a tiny untrained base that is quantized already; all share one store."""
    make = partial(compose, tmp_path_factory.mktemp("overfitting") / "out", *QUICK)
    calibrate(Run(make()))
    return make


@pytest.mark.parametrize(
    "words",
    [
        ("strategy=s2", "subjects=[toy_mug,toy_duck]"),
        ("strategy=s2", "strategy.apart=true"),
        ("tuner.identifier=true",),
        ("method=float",),
    ],
    ids=str,
)
def test_errors_are_those_of_what_is_served(configure: Configure, words: tuple[str, ...]) -> None:
    cfg = configure(*words)
    tune(Run(cfg))
    run = Run(cfg)
    for one in run.subjects:
        found = one.tuned.manifest().measured
        errors = []
        for base in (untuned_base(run), tuned_base(run, 2, [one])[0]):
            photos = torch.cat([base.encode_images(photo[None]) for photo in one.subject.photos])
            with torch.no_grad():
                text = base.encode_prompts([one.subject.tuning_text])
            errors.append(errors_by_bin(base, photos, text, run.loop, run.recipe.batch, "again"))
        assert found["errors_untuned"] == pytest.approx(errors[0], rel=1e-5)
        assert found["errors_tuned"] == pytest.approx(errors[1], rel=1e-5)
        assert found["errors_tuned"] != pytest.approx(found["errors_untuned"], rel=1e-3)
        assert len(found["overfitting"]) == 10
