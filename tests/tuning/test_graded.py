"""A graded set in training: gradients have its strength, the teacher is the untuned base, subjects are apart."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.objective import predict
from quantbooth.diffusion.router import SubjectsRoute, route_
from quantbooth.quant.selection import SetSelection
from quantbooth.timesteps.strategies import Strategy, baseline, graded
from quantbooth.tuning.module import TuningModule
from quantbooth.tuning.recipe import Examples, Recipe
from quantbooth.tuning.teacher import Teacher
from quantbooth.tuning.tuner import Tuner
from quantbooth.tuning.tuners import LoraTuner, ScaleTuner

RECIPE = Recipe(3, 2, 2, prior_loss_weight=0.5, loss_weight_max=8.0, lr_scheduler="constant", seed=0, distills=True)
TUNERS: dict[str, Tuner] = {"scales": ScaleTuner(inputs=True, biases=True, norms=True), "lora": LoraTuner(rank=2)}
LEAST = 0.3
every_tuner = pytest.mark.parametrize("name", TUNERS)


def strength(t: int) -> float:
    return LEAST + (1 - LEAST) * (1000 - t) / 1000


@pytest.fixture
def new(small_base: Base, quantized: Callable[[], Any], examples: Examples) -> Callable[..., TuningModule]:
    """Makes a module of a strategy, as quantbooth-tune does, with sets that have moved."""

    def make(name: str, strategy: Strategy, subjects: int = 1, **recipe: Any) -> TuningModule:
        denoiser = quantized() if name == "scales" else deepcopy(small_base.denoiser)
        base, selection, zones = small_base.with_denoiser(denoiser).denoiser_alone, SetSelection(), strategy.runs[0]
        route = SubjectsRoute(lambda t: strategy.chosen(zones, t), len(zones), subjects)
        learning = TUNERS[name].prepare_(base, len(zones), selection, subjects)
        route_(base, route, selection)
        draw, made = torch.Generator().manual_seed(3), replace(RECIPE, **recipe)
        module = TuningModule(
            base, learning, [examples] * subjects, zones, made, torch.optim.AdamW, None, route, Teacher(base, route)
        )
        with torch.no_grad():
            for numbers in module.numbers:
                numbers.add_(0.1 * torch.randn(numbers[:1].shape, generator=draw))
        return module

    return make


def gradients(module: TuningModule, t: int) -> dict[str, Tensor]:
    rows = module.rows(0, 0)
    ts = torch.full((RECIPE.batch,), t)
    module.errors(rows.x_0, rows.noise, ts, rows.conditioning, rows.is_prior.bool()).sum().backward()
    named = {name: one for name, one in module.denoiser.named_parameters() if one.requires_grad}
    return {name: one.grad for name, one in named.items() if one.grad is not None}


@every_tuner
@pytest.mark.parametrize("t", [0, 400, 999])
def test_gradients_are_those_of_the_set_at_that_strength_times_the_strength(
    new: Callable[..., TuningModule], name: str, t: int
) -> None:
    weak, plain = new(name, graded(LEAST, 1000)), new(name, baseline(1000))
    scaled = TUNERS[name].scaled(plain.base, TUNERS[name].state(plain.base), torch.tensor([strength(t)]))
    with torch.no_grad():
        for key, numbers in plain.denoiser.named_parameters():
            if numbers.requires_grad:
                numbers.copy_(scaled[key])
    found, expected = gradients(weak, t), gradients(plain, t)
    assert found.keys() == expected.keys() and found
    for key, gradient in expected.items():
        factor = 1.0 if key.endswith("lora_A") else strength(t)  # the strength of an adapter is in B of the twin
        torch.testing.assert_close(found[key], factor * gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


@every_tuner
@pytest.mark.parametrize("subjects", [1, 2])
def test_the_teacher_is_the_untuned_base(
    new: Callable[..., TuningModule], small_base: Base, quantized: Callable[[], Any], name: str, subjects: int
) -> None:
    module, rows = new(name, graded(LEAST, 1000), subjects), None
    rows = module.rows(0, 0)
    plain = small_base.with_denoiser(quantized() if name == "scales" else deepcopy(small_base.denoiser))
    assert module.teacher is not None
    found = module.teacher(rows.x_0, rows.noise, rows.t, rows.conditioning)
    with torch.no_grad():
        expected = predict(plain, plain.schedule, rows.x_0, rows.noise, rows.t, rows.conditioning)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@every_tuner
def test_each_subject_gets_the_gradient_that_it_gets_alone(
    new: Callable[..., TuningModule], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    modules = [new(name, graded(LEAST, 1000), subjects) for subjects in (1, 2)]
    for module in modules:
        monkeypatch.setattr(module, "log", lambda *_, **__: None)  # there is no trainer
        module.training_step(0).backward()
    for one, both in zip(modules[0].numbers, modules[1].numbers, strict=True):
        assert one.grad is not None and both.grad is not None and one.grad.abs().max() > 0
        for own in both.grad.split(1):
            torch.testing.assert_close(own, one.grad, rtol=1e-4, atol=1e-5 * float(one.grad.abs().max()))
