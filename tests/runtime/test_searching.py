"""What a search needs before it begins, and what is said where its plugin is missing."""

import pytest
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.explain import explain
from quantbooth.runtime.searching import name_directions, require_comparable, require_search


@pytest.mark.parametrize(
    ("group", "name", "extra"),
    [("sweeper", "optuna", "optuna"), ("launcher", "joblib", "joblib"), ("launcher", "submitit_slurm", "submitit")],
)
def test_a_plugin_of_an_extra_that_is_missing_is_named_with_its_extra(group: str, name: str, extra: str) -> None:
    line = explain(MissingConfigException("missing", f"hydra/{group}/{name}", ["basic"]))
    assert line == f"hydra/{group}={name} is of an extra that is not installed: pip install 'quantbooth[{extra}]'"
    other = explain(MissingConfigException("missing", "hydra/sweeper/ax", ["basic", "optuna"]))
    assert other == "'hydra/sweeper' has no option 'ax'; choose from basic, optuna"


@pytest.mark.parametrize("objectives", [["clip_t"], ["clip_t", "local_clip_i"], []])
def test_every_objective_is_maximized(objectives: list[str]) -> None:
    name_directions()
    cfg = OmegaConf.create({"objectives": objectives, "direction": "${maximized:${objectives}}"})
    assert list(cfg.direction) == ["maximize"] * len(objectives)


@pytest.mark.parametrize("key", ["subject", "subjects", "seed", "protocol.seeds", "scorer"])
def test_a_search_does_not_choose_what_its_trials_are_compared_on(key: str) -> None:
    require_comparable(["tuner.learning_rate", "strategy.interval"])
    with pytest.raises(UserError, match=f"^a search must not choose {key}: scores of several do not compare; give one"):
        require_comparable(["tuner.learning_rate", key])


def test_a_search_with_objectives_is_allowed() -> None:
    require_search(OmegaConf.create({"objectives": ["clip_t"], "dry_run": False}))
