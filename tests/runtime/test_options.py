"""Mistakes in options are named, whatever their keys are."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from quantbooth.runtime.errors import WrongOptions
from quantbooth.runtime.options import require_valid


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"strength": {100: 1.0}}, "^strength must have text as keys, got 100$"),
        ({"strength": {True: 0.0}}, "^strength must have text as keys, got true$"),
        ({"base": {"zones": {1: [0, 5]}}}, "^base.zones must have text as keys, got 1$"),
        ({"strength": {"0.5-100": -1}}, r"^strength\.0\.5-100 must be a finite number >= 0 .* got -1$"),
    ],
)
def test_keys_that_no_path_reaches_are_refused_by_name(given: dict[str, Any], told: str) -> None:
    cfg = OmegaConf.create(given)
    OmegaConf.set_struct(cfg, True)  # as Hydra composes
    with pytest.raises(WrongOptions, match=told):
        require_valid(cfg)
