"""strategy=adaptive: borders by gradients, measured once, said, kept with what was tuned, and served."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.export import export
from quantbooth.commands.tune import tune
from quantbooth.commands.verify import artifacts, faults, repair
from quantbooth.run.models import tuned_base
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.files import open_tuned, strategy_of
from quantbooth.tuning.gradients import FILE

pytestmark = pytest.mark.chain

Configure = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "prior=none", "tuner.steps=1"),
    *("strategy=adaptive", "strategy.bins=4", "strategy.draws=1", "preview.validation_steps=0"),
)


@pytest.fixture(scope="module")
def configure(compose: Configure, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration on a tiny untrained base that is quantized already; all share one store."""
    make = partial(compose, tmp_path_factory.mktemp("adaptive") / "out", *QUICK)
    calibrate(Run(make()))
    return make


@pytest.mark.parametrize("tuner", ["scales", "scales_in_out"])
def test_borders_are_measured_once_said_kept_and_served(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tuner: str
) -> None:
    cfg = configure(f"tuner={tuner}")
    with pytest.raises(UserError, match="lacks gradients by timestep .* quantbooth-tune"):
        Run(cfg).strategy  # noqa: B018
    folder, run = tune(Run(cfg))[0], Run(cfg)
    zones = run.strategy.training_zones.zones
    said = ", ".join(f"[{zone.start}, {zone.stop})" for zone in zones)
    assert f"zones of toy_mug: {said}\n" in capsys.readouterr().err
    assert strategy_of(open_tuned(folder)) == run.strategy
    assert run.only.gradients is not None
    assert run.only.tuned.manifest().parents["gradients"] == run.only.gradients.manifest().fingerprint
    route, t = tuned_base(run, 1)[1], torch.arange(1000)
    assert route is not None
    assert torch.equal(route(t), run.strategy.route(t))
    monkeypatch.setattr("quantbooth.run.gradients.measure_gradients", None)
    fewer = Run(configure(f"tuner={tuner}", "strategy.count=2"))
    tune(fewer)
    assert fewer.strategy.sets == 2
    assert {zone.start for zone in fewer.strategy.training_zones.zones} < {0, 250, 500, 750}


def test_an_export_has_a_denoiser_for_each_zone_of_the_subject(configure: Configure, tmp_path: Path) -> None:
    cfg = configure(f"export.folder={tmp_path}")
    tune(Run(cfg))
    made = export(Run(cfg))
    assert len([part for part in made.iterdir() if part.name.startswith("unet")]) == 3


def test_damaged_gradients_are_made_again(configure: Configure) -> None:
    cfg = configure("seed=1")
    tune(Run(cfg))
    artifact = Run(cfg).only.gradients
    assert artifact is not None
    file, store = artifact.require() / FILE, Path(cfg.paths.store)
    made = file.read_text()
    file.write_text(made.replace("affinity", "likeness"))
    assert list(faults(artifacts(store))) == [file.parent]
    repair(store, file.parent)
    assert file.read_text() == made
