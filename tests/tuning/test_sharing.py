"""Shared steps: experts are one set that learns as the baseline does, then branch; subjects share nothing."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.router import SubjectsRoute, route_
from quantbooth.quant.selection import SetSelection
from quantbooth.timesteps.zones import equal_zones
from quantbooth.tuning.module import TuningModule
from quantbooth.tuning.recipe import Examples, Recipe
from quantbooth.tuning.sharing import share_gradients_
from quantbooth.tuning.tuner import Tuner
from quantbooth.tuning.tuners import LoraTuner, ScaleTuner

New = Callable[..., TuningModule]
RECIPE = Recipe(4, 2, 2, prior_loss_weight=0.5, loss_weight_max=8.0, lr_scheduler="constant", seed=0)
TUNERS: dict[str, Tuner] = {"scales": ScaleTuner(inputs=True, biases=True, norms=True), "lora": LoraTuner(rank=2)}
EXPERTS = 3
every_tuner = pytest.mark.parametrize("name", TUNERS)


def sgd(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.1)


def adamw(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.02)


@pytest.fixture
def new(small_base: Base, quantized: Callable[[], Any], examples: Examples) -> New:
    """Makes a module as quantbooth-tune does; each subject has photos of its own."""

    def make(
        name: str, shared: int, experts: int = EXPERTS, subjects: int = 1, optimizer: Any = sgd, **recipe: Any
    ) -> TuningModule:
        denoiser = quantized() if name == "scales" else deepcopy(small_base.denoiser)
        base, selection = small_base.with_denoiser(denoiser).denoiser_alone, SetSelection()
        zones, tuner = equal_zones(experts, 1000), TUNERS[name]
        route = SubjectsRoute(zones.index, experts, subjects)
        learning = tuner.prepare_(base, 1, selection, experts * subjects)
        distance = tuner.distance(base)
        route_(base, route, selection)
        seen = [replace(examples, subject=(1 + place) * examples.subject) for place in range(subjects)]  # type: ignore
        made = replace(RECIPE, **recipe)
        return TuningModule(
            base, learning, seen, zones, made, optimizer, route=route, distance=distance, shared_steps=shared
        )

    return make


class Noting(Callback):
    """Keeps the parameters after each step."""

    def __init__(self) -> None:
        self.after: list[list[Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step > len(self.after):
            self.after.append([one.detach().clone() for one in pl_module.numbers])


def trained(module: TuningModule, **options: Any) -> list[list[Tensor]]:
    noting = Noting()
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu", "max_epochs": -1}
    Trainer(max_steps=module.recipe.steps, callbacks=[noting], **quiet, **options).fit(module)
    assert len(noting.after) == module.recipe.steps
    return noting.after


def test_gradients_are_summed_over_the_experts_of_a_subject_alone() -> None:
    one, still = nn.Parameter(torch.zeros(6, 2, 2)), nn.Parameter(torch.zeros(6, 3))
    given = torch.arange(24.0).view(6, 2, 2)
    one.grad = given.clone()
    share_gradients_([one, still], EXPERTS)
    assert still.grad is None
    for row in range(6):
        assert torch.equal(one.grad[row], given[3 * (row // 3) : 3 * (row // 3) + 3].sum(0))


@every_tuner
@pytest.mark.parametrize(
    "options", [{}, {"pull": 0.5}, {"each": 2}, {"clip": 1e-4}], ids=["plain", "pull", "accumulated", "clipped"]
)
@pytest.mark.chain
def test_a_shared_run_is_that_of_the_baseline_for_every_expert(new: New, name: str, options: dict[str, Any]) -> None:
    recipe = {"pull": options.get("pull", 0.0), "accumulate_grad_batches": options.get("each", 1)}
    trainer: dict[str, Any] = {"accumulate_grad_batches": recipe["accumulate_grad_batches"]}
    if "clip" in options:
        trainer |= {"gradient_clip_val": options["clip"], "gradient_clip_algorithm": "value"}
    (*_, shared), (*_, alone) = (
        trained(new(name, RECIPE.steps, experts, **recipe), **trainer) for experts in (EXPERTS, 1)
    )
    start = new(name, 0, 1).numbers
    for many, one, before in zip(shared, alone, start, strict=True):
        size = float((one - before.detach()).abs().max())
        for expert in many.split(1):
            torch.testing.assert_close(expert, one, rtol=1e-6, atol=1e-3 * size + 1e-7)
    assert any((one - before.detach()).abs().max() > 1e-5 for one, before in zip(alone, start, strict=True))


@every_tuner
@pytest.mark.parametrize("optimizer", [sgd, adamw])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_experts_are_equal_bit_for_bit_until_they_branch(
    new: New, name: str, optimizer: Any, ema: float | None
) -> None:
    module = new(name, 2, subjects=2, optimizer=optimizer, ema_decay=ema)
    for step, numbers in enumerate(trained(module), start=1):
        equal = [torch.equal(own, own[:1].expand_as(own)) for one in numbers for own in one.split(EXPERTS)]
        assert all(equal) if step <= 2 else not any(equal)
        assert not any(torch.equal(*one.split(EXPERTS)) for one in numbers if step > 1)


@every_tuner
def test_after_the_shared_steps_each_expert_takes_steps_by_its_own_gradient(
    new: New, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, twin = trained(new(name, 2)), new(name, 0)
    monkeypatch.setattr(twin, "log", lambda *_, **__: None)  # there is no trainer
    monkeypatch.setattr(TuningModule, "global_step", property(lambda module: module._now))
    for step in range(RECIPE.steps):
        twin._now = step  # type: ignore[assignment]
        twin.zero_grad()
        twin.training_step(0).backward()
        with torch.no_grad():
            for one, after in zip(twin.numbers, found[step], strict=True):
                assert one.grad is not None
                gradient = one.grad.sum(0, keepdim=True).expand_as(one) if step < 2 else one.grad
                one.sub_(0.1 * gradient)
                torch.testing.assert_close(after, one.detach(), rtol=1e-5, atol=1e-6)


def test_samples_of_shared_steps_count_for_all_experts_and_later_ones_for_their_own(new: New) -> None:
    module, plain = new("scales", 3, subjects=2), new("scales", 0, subjects=2)
    for one in (module, plain):
        trained(one)
    drawn = [module.rows(0, step).t for step in range(RECIPE.steps)]
    own = torch.bincount(module.zones.index(drawn[3]) - 1, minlength=EXPERTS)
    assert module.seen.tolist() == [(3 * RECIPE.batch + own).tolist()] * 2
    assert plain.seen.sum(1).tolist() == [RECIPE.samples_seen] * 2
