"""A wide set and an expert per zone: each timestep is the base with both steps added up, in training too."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.router import SubjectsRoute, route_
from quantbooth.quant import scale_sets
from quantbooth.quant.selection import SetSelection
from quantbooth.timesteps.strategies import s1s2
from quantbooth.tuning.module import TuningModule
from quantbooth.tuning.recipe import Examples, Recipe
from quantbooth.tuning.tuners import ScaleTuner

RECIPE = Recipe(3, 2, 2, prior_loss_weight=0.5, loss_weight_max=8.0, lr_scheduler="constant", seed=0)
ZONES = {"low": [0, 400], "high": [400, 1000]}
STRATEGY = s1s2(ZONES, [100, 1000], 1000)
TUNER = ScaleTuner(inputs=True, biases=True, norms=True)


@pytest.fixture
def module(small_base: Base, quantized: Callable[[], Any], examples: Examples) -> TuningModule:
    """A module as quantbooth-tune makes it, with sets that have moved."""
    base, selection, zones = small_base.with_denoiser(quantized()).denoiser_alone, SetSelection(), STRATEGY.runs[0]
    route = SubjectsRoute(lambda t: STRATEGY.chosen(zones, t), STRATEGY.sets)
    learning = TUNER.prepare_(base, STRATEGY.sets, selection)
    route_(base, route, selection)
    made = TuningModule(base, learning, [examples], zones, RECIPE, torch.optim.AdamW, route=route, wide=STRATEGY.wide)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for numbers in made.numbers:
            numbers.add_(0.1 * torch.randn(numbers.shape, generator=draw))
    return made


@pytest.mark.parametrize(("t", "sets"), [(50, [1]), (100, [0, 1]), (399, [0, 1]), (400, [0, 2]), (999, [0, 2])])
def test_errors_and_gradients_are_those_of_a_set_with_both_steps(
    module: TuningModule, small_base: Base, quantized: Callable[[], Any], t: int, sets: list[int]
) -> None:
    base, selection = small_base.with_denoiser(quantized()).denoiser_alone, SetSelection()
    state: dict[str, torch.Tensor] = {}
    for name, rows in TUNER.state(module.base).items():
        start = 0.0 if name.endswith("shift") else 1.0
        state[name] = start + (rows[sets] - start).sum(dim=0, keepdim=True)
    TUNER.load_(base, state, 1, selection)
    selection.choose(torch.ones(RECIPE.batch, dtype=torch.int64))
    twin = TuningModule(
        base, scale_sets.parameters(base.denoiser), module.examples, module.zones, RECIPE, torch.optim.AdamW
    )
    drawn, ts = module.rows(0, 0), torch.full((RECIPE.batch,), t)
    found, expected = (
        one.errors(drawn.x_0, drawn.noise, ts, drawn.conditioning, drawn.is_prior.bool()) for one in (module, twin)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for one in (found, expected):
        one.sum().backward()
    of_twin = dict(twin.denoiser.named_parameters())
    for name, numbers in module.denoiser.named_parameters():
        if not numbers.requires_grad:
            continue
        gradient = of_twin[name].grad
        assert numbers.grad is not None and gradient is not None
        for k in range(STRATEGY.sets):
            own = gradient[0] if k in sets else torch.zeros_like(gradient[0])
            torch.testing.assert_close(numbers.grad[k], own, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


def test_each_sample_counts_for_the_sets_that_learn_from_it(
    module: TuningModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "log", lambda *_, **__: None)  # there is no trainer
    t = module.rows(0, 0).t
    module.training_step(0)
    assert module.seen.tolist() == [[int((t >= 100).sum()), int((t < 400).sum()), int((t >= 400).sum())]]
