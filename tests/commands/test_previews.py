"""Pictures that are drawn while tuning use the sets as finished pictures do, whatever zones train them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig
from PIL import Image

from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.tune import tune
from quantbooth.run.examples import preview_requests
from quantbooth.run.models import tuned_base
from quantbooth.run.run import Run
from quantbooth.sampling.module import SamplingModule, image_jobs

Configure = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=6", "prior=none", "tuner.steps=2"),
    *("base.zones={clean_up:[0,300],content:[300,800],coarse:[800,1000]}", "tuner.learning_rate=0.5"),
    *("preview.validation_steps=2", "protocol.prompt_stride=25"),
)
STRATEGIES: dict[str, tuple[str, ...]] = {
    "s1": ("strategy=s1",),
    "s1 outside=tuned": ("strategy=s1", "strategy.outside=tuned"),
    "s2": ("strategy=s2",),
    "graded": ("strategy=graded",),
    "s1s2": ("strategy=s1s2", "strategy.wide=[300,1000]"),
}


@pytest.fixture(scope="module")
def configure(compose: Callable[..., DictConfig], tmp_path_factory: pytest.TempPathFactory) -> Configure:
    make = partial(compose, tmp_path_factory.mktemp("previews") / "out", *QUICK)
    calibrate(Run(make()))
    return make


def grid(run: Run) -> np.ndarray:
    """Return the grid that the tuning drew after its last step."""
    file = Path(run.settings["paths"]["logs"]) / "samples" / run.only.tuned.path.name / "step-000002.png"
    return np.asarray(Image.open(file)).astype(int)[::4, ::4]


@pytest.mark.chain
@pytest.mark.parametrize("name", STRATEGIES)
def test_the_last_grid_is_what_the_finished_sets_draw(configure: Configure, name: str) -> None:
    run = Run(configure(*STRATEGIES[name]))
    tune(run)
    base, route = tuned_base(run, 2)
    jobs = image_jobs(preview_requests(run.only.subject), Path())
    finished = SamplingModule(base, run.sampler, jobs, route).render(jobs)
    expected = (finished.permute(2, 0, 3, 1).flatten(1, 2) * 255).round().numpy().astype(int)
    assert np.abs(grid(run) - expected).max() <= 1
    if name == "s1 outside=tuned":
        assert np.abs(grid(run) - grid(Run(configure(*STRATEGIES["s1"])))).max() > 8
