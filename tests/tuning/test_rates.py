"""Learning-rate schedules: those of diffusers by the same names, chosen by option or config group."""

import pytest
import torch
from diffusers.optimization import get_scheduler

from composing import composed
from quantbooth.run.options import recipe_of
from quantbooth.runtime.config import choices, conf_dir, plain
from quantbooth.runtime.errors import UserError
from quantbooth.schema_tuner import TUNER_GROUPS
from quantbooth.tuning.rates import SCHEDULES, Rates

STEPS = 40


def of_diffusers(rates: Rates) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))], lr=1.0)
    name = "constant_with_warmup" if rates.name == "constant" else rates.name
    options = {"num_warmup_steps": rates.warmup_steps, "num_training_steps": STEPS}
    if rates.name == "cosine_with_restarts":
        options["num_cycles"] = rates.num_cycles
    scheduler = get_scheduler(name, optimizer, **options, power=rates.power)
    found = []
    for _ in range(STEPS):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("warmup_steps", [0, 7])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_diffusers(name: str, warmup_steps: int) -> None:
    more = {"cosine_with_restarts": {"num_cycles": 3}, "polynomial": {"power": 2.5}}
    rates = Rates(name, warmup_steps, **more.get(name, {}))  # type: ignore[arg-type]
    expected = of_diffusers(rates)
    assert [rates.at(step, STEPS) for step in range(STEPS)] == pytest.approx(expected, abs=2e-7)


@pytest.mark.parametrize("choice", choices(conf_dir() / "lr_scheduler"))
def test_each_choice_of_the_group_is_a_schedule_of_the_recipe(choice: str) -> None:
    recipe = recipe_of(plain(composed(f"lr_scheduler={choice}")))
    assert isinstance(recipe.lr_scheduler, Rates)
    assert choice.startswith(recipe.lr_scheduler.name)
    assert bool(recipe.lr_scheduler.warmup_steps) == choice.endswith("_with_warmup")
    assert recipe.rate_at(recipe.steps - 1) == recipe.lr_scheduler.at(recipe.steps - 1, recipe.steps)


def test_an_option_wins_over_the_group() -> None:
    recipe = recipe_of(plain(composed("lr_scheduler=cosine_with_warmup", "tuner.lr_warmup_steps=3")))
    assert recipe.lr_scheduler == Rates("cosine", 3)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_an_option(name: str) -> None:
    assert TUNER_GROUPS["tuner"]["lr_scheduler"].kind.holds(name)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("tuner.lr_power=2.0",), r"tuner\.lr_power=2\.0 needs tuner\.lr_scheduler=polynomial, got cosine"),
        (("tuner.lr_num_cycles=2",), r"tuner\.lr_num_cycles=2 needs tuner\.lr_scheduler=cosine_with_restarts"),
        (("tuner.lr_warmup_steps=5", "tuner.steps=5"), r"tuner\.lr_warmup_steps=5 .* tuner\.steps=5"),
    ],
)
def test_options_without_effect_are_refused(words: tuple[str, ...], found: str) -> None:
    with pytest.raises(UserError, match=found):
        recipe_of(plain(composed(*words)))
