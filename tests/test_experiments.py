"""Experiments of conf/: what one sets is what is run, also beside a method, and each of its jobs can be planned."""

from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from composing import composed, filled
from quantbooth.run.run import Run
from quantbooth.runtime.config import conf_dir

EXPERIMENTS = [file.stem for file in sorted((conf_dir() / "experiment").glob("*.yaml"))]


def leaves(node: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(node, dict) or not node:
        return {above: node} if above else {}
    return {key: value for name in node for key, value in leaves(node[name], (*above, name)).items()}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_what_an_experiment_sets_is_what_is_run(experiment: str) -> None:
    """Also where conf/quantbooth.yaml itself has a value for it, as of report.notes, tag and subjects."""
    said = yaml.safe_load((conf_dir() / "experiment" / f"{experiment}.yaml").read_text())
    of_hydra = ("defaults", "hydra")
    wanted = leaves({key: value for key, value in said.items() if key not in of_hydra})
    found = leaves(OmegaConf.to_container(composed(f"experiment={experiment}")))
    assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", ["quantbooth", "degradation", "probe"])
def test_an_experiment_of_the_user_wins_over_every_default(name: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    plain = leaves(yaml.safe_load((conf_dir() / f"{name}.yaml").read_text()))
    keys = [key for key, value in plain.items() if key[0] not in ("defaults", "hydra") and "." not in key[-1]]
    mine: dict[str, Any] = {}
    for key in keys:
        place = mine
        for part in key[:-1]:
            place = place.setdefault(part, {})
        place[key[-1]] = "mine"
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump(mine))
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose(name, [f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])
    found = leaves(OmegaConf.to_container(cfg))
    assert len(keys) >= 6
    assert {key: found[key] for key in keys} == dict.fromkeys(keys, "mine")


def overridden(file: Path) -> dict[str, str]:
    """Return the choices of groups that a config file makes."""
    lines = yaml.safe_load(file.read_text()).get("defaults", [])
    return {key.removeprefix("override /"): value for line in lines for key, value in line.items()}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.chain
def test_a_method_is_the_same_in_every_experiment(experiment: str) -> None:
    """An experiment that chooses a tuner, too, does not silently turn the method that is asked for into another.

    Methods that choose in no group of the experiment's are not composed with it.
    """
    own = overridden(conf_dir() / "experiment" / f"{experiment}.yaml")
    for file in sorted((conf_dir() / "method").glob("*.yaml")):
        wanted = overridden(file)
        if not wanted.keys() & own.keys():
            continue
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            words = [f"experiment={experiment}", f"method={file.stem}"]
            loader = GlobalHydra.instance().config_loader()
            chosen = loader.compute_defaults_list("quantbooth", words, RunMode.RUN).overrides.known_choices
        assert {group: chosen[group] for group in wanted} == wanted


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.chain
def test_every_job_of_an_experiment_can_be_planned(experiment: str) -> None:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        sweep = hydra.compose("quantbooth", [f"experiment={experiment}"], return_hydra_config=True).hydra.sweeper.params
    assert Run(filled(composed(f"experiment={experiment}"))).steps[-1] > 0
    for key, values in (sweep or {}).items():
        swept = OverridesParser.create().parse_override(f"{key}={values}")
        for value in swept.sweep_string_iterator() if swept.is_sweep_override() else [values]:
            assert Run(filled(composed(f"experiment={experiment}", f"{key}={value}"))).steps[-1] > 0
