"""The untuned base beside the tuned one: its prediction is unchanged by tuning, and its loss forms equal slow twins."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.objective import consistency_loss, predict
from quantbooth.diffusion.router import SubjectsRoute, route_
from quantbooth.quant import adapters
from quantbooth.quant.selection import SetSelection
from quantbooth.timesteps.zones import equal_zones
from quantbooth.tuning.module import TuningModule
from quantbooth.tuning.recipe import Examples, Recipe
from quantbooth.tuning.teacher import Teacher, distance_from_start, frozen_copy
from quantbooth.tuning.tuner import Tuner
from quantbooth.tuning.tuners import FullTuner, LoraTuner, ScaleTuner

THREE = equal_zones(3, 1000)
RECIPE = Recipe(3, 2, 3, prior_loss_weight=0.5, loss_weight_max=8.0, lr_scheduler="constant", seed=0)
TUNERS: dict[str, Tuner] = {
    "scales": ScaleTuner(inputs=True, biases=True, norms=True),
    "lora": LoraTuner(rank=2),
    "full": FullTuner(),
}


def adamw(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.01)


def change_(numbers: list[torch.nn.Parameter]) -> None:
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for one in numbers:
            one.add_(0.1 * torch.randn(one.shape, generator=draw))


@pytest.fixture
def new(small_base: Base, quantized: Callable[[], Any], examples: Examples) -> Callable[..., TuningModule]:
    """Makes a module with a teacher and a distance, and parameters that have moved."""

    def make(name: str, subjects: int = 1, move: bool = True, **recipe: Any) -> TuningModule:
        tuner, zones = TUNERS[name], equal_zones(1, 1000) if name == "full" else THREE
        denoiser = quantized() if name == "scales" else deepcopy(small_base.denoiser)
        base, selection = small_base.with_denoiser(denoiser).denoiser_alone, SetSelection()
        route = SubjectsRoute(zones.index, len(zones), subjects)
        untuned = None if tuner.has_base else frozen_copy(base)
        learning = tuner.prepare_(base, len(zones), selection, subjects)
        distance = tuner.distance(base)
        route_(base, route, selection)
        teacher = Teacher(base, route) if untuned is None else Teacher(untuned, None)
        made = replace(RECIPE, **recipe)
        module = TuningModule(base, learning, [examples] * subjects, zones, made, adamw, None, route, teacher, distance)
        if move:
            change_(module.numbers)
        return module

    return make


def whole(module: TuningModule, number: int = 0) -> tuple[Tensor, Tensor, Tensor, Conditioning, Tensor]:
    rows = module.rows(0, number)
    return rows.x_0, rows.noise, rows.t, rows.conditioning, rows.is_prior.bool()


@pytest.mark.parametrize("name", TUNERS)
@pytest.mark.parametrize("subjects", [1, 2])
def test_what_it_predicts_is_what_the_untuned_base_predicts(
    new: Callable[..., TuningModule], small_base: Base, quantized: Callable[[], Any], name: str, subjects: int
) -> None:
    if name == "full" and subjects == 2:
        pytest.skip("float weights are tuned on one subject")
    module = new(name, subjects)
    x_0, noise, t, conditioning, _ = whole(module)
    plain = small_base.with_denoiser(quantized() if name == "scales" else deepcopy(small_base.denoiser))
    assert module.teacher is not None
    found = module.teacher(x_0[:3], noise[:3], t[:3], conditioning[:3])
    with torch.no_grad():
        expected = predict(plain, plain.schedule, x_0[:3], noise[:3], t[:3], conditioning[:3])
        if module.route is not None and subjects == 2:
            module.route.choose(torch.tensor([0, 0, 1]))
        tuned = predict(module.base, module.schedule, x_0[:3], noise[:3], t[:3], conditioning[:3])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not found.requires_grad and (tuned - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", TUNERS)
def test_it_and_the_start_of_a_distance_are_where_training_is(new: Callable[..., TuningModule], name: str) -> None:
    """A GPU takes what is part of the module, after all was made on the CPU."""
    module = new(name)
    module.to("meta")
    assert module.teacher is not None
    assert {one.device.type for one in module.teacher.base.denoiser.parameters()} == {"meta"}
    numbers = [torch.nn.Parameter(torch.ones(3))]
    distance = distance_from_start(numbers)
    numbers[0] = torch.nn.Parameter(numbers[0].to("meta"))
    assert distance().device.type == "meta"


@pytest.mark.parametrize("name", TUNERS)
def test_a_distilled_prior_asks_nothing_of_the_untuned_base(new: Callable[..., TuningModule], name: str) -> None:
    module = new(name, move=False, distills=True)
    errors = module.errors(*whole(module))
    assert errors[RECIPE.train_batch_size :].detach().abs().max() < 1e-9 < errors[: RECIPE.train_batch_size].min()


@pytest.mark.parametrize("name", TUNERS)
@pytest.mark.parametrize("beta", [None, 40.0])
@pytest.mark.parametrize("distills", [False, True])
def test_errors_equal_a_slow_twin_row_by_row(
    new: Callable[..., TuningModule], examples: Examples, name: str, beta: float | None, distills: bool
) -> None:
    module = new(name, distills=distills, dco_beta=beta)
    x_0, noise, t, conditioning, prior = whole(module, 1)
    found = module.errors(x_0, noise, t, conditioning, prior).detach()
    assert module.teacher is not None
    for row in range(len(t)):
        one = slice(row, row + 1)
        with torch.no_grad():
            mine = predict(module.base, module.schedule, x_0[one], noise[one], t[one], conditioning[one]).double()
        target = module.schedule.target(x_0[one], noise[one], t[one]).double()
        if prior[row] and distills:
            target = module.teacher(x_0[one], noise[one], t[one], conditioning[one]).double()
        weight = float(module.schedule.bounded_inverse_weight(t[row][None], 8.0))
        expected = weight * (mine - target).square().mean()
        if beta is not None and not prior[row]:
            base = module.teacher(x_0[one], noise[one], t[one], examples.prior_text).double()
            gained = expected - weight * (base - target).square().mean()
            expected = -torch.log(torch.sigmoid(-beta * gained))
        torch.testing.assert_close(found[row].double(), expected, atol=1e-4, rtol=1e-4)


def test_the_consistency_loss_has_the_slope_of_its_formula() -> None:
    errors = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64, requires_grad=True)
    base = torch.tensor([0.2, 0.2, 0.2], dtype=torch.float64)
    loss = consistency_loss(errors, base, 30.0)
    torch.testing.assert_close(loss, -torch.log(torch.sigmoid(-30.0 * (errors - base))))
    loss.sum().backward()
    torch.testing.assert_close(errors.grad, 30 * torch.sigmoid(30 * (errors - base)).detach())
    large = consistency_loss(torch.tensor([100.0]), torch.tensor([0.0]), 1000.0)
    assert large.isfinite().all() and float(large[0]) == 1e5


@pytest.mark.parametrize("name", TUNERS)
def test_the_distance_is_zero_at_the_start_and_its_gradient_points_back(
    new: Callable[..., TuningModule], name: str
) -> None:
    module = new(name, move=False)
    assert module.distance is not None
    assert float(module.distance().detach()) == 0
    change_(module.numbers)
    far = module.distance()
    far.backward()
    with torch.no_grad():
        for one in module.numbers:
            assert one.grad is not None
            one.sub_(0.01 * one.grad)
    assert 0 < float(module.distance().detach()) < float(far.detach())


def test_the_distance_of_gains_is_their_squared_distance_from_one(new: Callable[..., TuningModule]) -> None:
    module = new("scales")
    assert module.distance is not None
    state = {name: one for name, one in module.base.denoiser.named_parameters() if "gain" in name or "shift" in name}
    expected = sum((one - (1 if "gain" in name else 0)).square().sum() for name, one in state.items())
    torch.testing.assert_close(module.distance(), torch.as_tensor(expected), rtol=1e-5, atol=0)


def test_the_distance_of_adapters_is_that_of_their_products(new: Callable[..., TuningModule]) -> None:
    module = new("lora")
    state = adapters.read(module.base.denoiser)
    products = [b.flatten(2) @ a.flatten(2) for a, b in adapters.pairs(state).values()]
    expected = sum(product.double().square().sum() for product in products)
    assert module.distance is not None
    torch.testing.assert_close(module.distance().double(), torch.as_tensor(expected), rtol=1e-5, atol=0)


def test_the_pull_adds_its_weight_times_the_distance(new: Callable[..., TuningModule]) -> None:
    far, near = new("scales", pull=0.25), new("scales")
    near.distance = None
    for module in (far, near):
        module.log = lambda *_, **__: None  # type: ignore[method-assign]
        module.trainer = type("Trainer", (), {"global_step": 0})()
    assert far.distance is not None
    added = far.training_step(0) - near.training_step(0)
    torch.testing.assert_close(added, 0.25 * far.distance(), rtol=1e-4, atol=1e-5)


def test_class_rows_have_the_prompts_of_their_pictures(new: Callable[..., TuningModule], examples: Examples) -> None:
    texts = Conditioning(
        torch.randn(3, *examples.prior_text.tokens.shape[1:], generator=torch.Generator().manual_seed(1))
    )
    rows = torch.tensor([2, 0, 1, 2])
    module = new("scales", class_batch_size=6)
    module.examples = (replace(examples, prior_texts=texts, prior_rows=rows),)
    latents, found, _ = module.batch(torch.Generator().manual_seed(0))
    for place in range(RECIPE.train_batch_size, len(latents)):
        picture = int((examples.prior[torch.arange(len(examples.prior))] == latents[place]).flatten(1).all(1).nonzero())
        assert torch.equal(found.tokens[place], texts.tokens[rows[picture]])
    module.examples = (replace(examples, prior_texts=texts, prior_rows=None),)
    drawn = [
        module.batch(torch.Generator().manual_seed(seed))[1].tokens[RECIPE.train_batch_size :] for seed in range(5)
    ]
    used = {int((texts.tokens == one).flatten(1).all(1).nonzero()) for batch in drawn for one in batch}
    assert used == {0, 1, 2}
