"""Names of gradients by timestep, and of what is tuned with borders by them."""

from collections.abc import Callable

import pytest

from quantbooth.run.run import Run
from quantbooth.store.files import fingerprint

MakePlan = Callable[..., Run]


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("strategy.count=2", "tuned"),
        ("strategy.apart=true", "tuned"),
        ("tuner.steps=100", "tuned"),
        ("strategy.bins=10", "gradients tuned"),
        ("strategy.draws=5", "gradients tuned"),
        ("seed=1", "gradients tuned"),
        ("subject=toy_duck", "gradients tuned"),
        ("tuner=scales", "gradients tuned"),
        ("calibration=minmax", "gradients tuned"),
        ("resources.gradient_checkpointing=true", ""),
    ],
)
def test_what_decides_borders_is_in_the_name_of_what_they_shape(plan: MakePlan, override: str, changed: str) -> None:
    found = [plan("strategy=adaptive", *words).only for words in ([], [override])]
    made = [{"gradients": one.gradients, "tuned": one.tuned} for one in found]
    names = [{role: fingerprint(item.identity) for role, item in of.items() if item} for of in made]
    assert {role for role, name in names[0].items() if name != names[1][role]} == set(changed.split())
