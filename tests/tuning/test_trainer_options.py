"""Options of the trainer that tuning honours: what each promises, against twins in plain torch and float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.timesteps.zones import Zone, Zones
from quantbooth.tuning.callbacks import Snapshots
from quantbooth.tuning.module import Rows, TuningModule
from quantbooth.tuning.rates import Rates
from quantbooth.tuning.tuners import ScaleTuner

MakeStage = Callable[..., TuningModule]
RATE = 0.5


def sgd(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=RATE)


def trained(stage: TuningModule, *callbacks: Callback, **options: Any) -> Trainer:
    """Train a stage with plain gradient descent of a constant rate."""
    stage.optimizer_factory = sgd
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu", "max_epochs": -1}
    trainer = Trainer(max_steps=stage.recipe.steps, callbacks=[*callbacks], **{**quiet, **options})
    trainer.fit(stage)
    return trainer


def flat(stage: TuningModule) -> Tensor:
    return torch.cat([numbers.detach().double().flatten() for numbers in stage.numbers])


def gradient(stage: TuningModule, number: int) -> Tensor:
    """The gradient of the batch of this number, at the present parameters, in float64."""
    stage.zero_grad()
    each = stage.recipe.accumulate_grad_batches
    stage._step_for_test = number // each  # type: ignore[assignment]
    stage.training_step(number % each).backward()
    return torch.cat([numbers.grad.double().flatten() for numbers in stage.numbers if numbers.grad is not None])


@pytest.fixture
def at_any_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a module without a trainer be at a step, and log nothing."""
    monkeypatch.setattr(TuningModule, "global_step", property(lambda stage: getattr(stage, "_step_for_test", 0)))
    monkeypatch.setattr(TuningModule, "log", lambda *_, **__: None)


def expected(new_stage: MakeStage, clipped: Callable[[Tensor], Tensor], **recipe: Any) -> Tensor:
    """Gradient descent by hand, each step on the mean gradient of its batches."""
    stage = new_stage(**recipe)
    each = stage.recipe.accumulate_grad_batches
    theta = flat(stage)
    for step in range(stage.recipe.steps):
        mean = torch.stack([gradient(stage, step * each + place) for place in range(each)]).mean(0)
        theta = theta - RATE * clipped(mean)
        torch.nn.utils.vector_to_parameters(theta.float(), stage.numbers)
    return theta


def by_norm(most: float) -> Callable[[Tensor], Tensor]:
    return lambda g: g * min(1.0, most / float(g.norm()))


CASES: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "accumulated": ({"accumulate_grad_batches": 3}, lambda g: g),
    "norm": ({"gradient_clip_val": 1e-3}, by_norm(1e-3)),
    "norm, too large to clip": ({"gradient_clip_val": 1e9, "gradient_clip_algorithm": "norm"}, lambda g: g),
    "value": (
        {"gradient_clip_val": 1e-5, "gradient_clip_algorithm": "value"},
        lambda g: g.clamp(-1e-5, 1e-5),
    ),
    "both": ({"accumulate_grad_batches": 2, "gradient_clip_val": 1e-3}, by_norm(1e-3)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_follows_gradient_descent_by_hand(
    new_stage: MakeStage, name: str, request: pytest.FixtureRequest
) -> None:
    options, clipped = CASES[name]
    recipe = {"steps": 3, "lr_scheduler": "constant"}
    recipe["accumulate_grad_batches"] = options.get("accumulate_grad_batches", 1)
    stage, start = new_stage(**recipe), flat(new_stage(**recipe))
    trained(stage, **options)
    request.getfixturevalue("at_any_step")
    moved, twin = flat(stage) - start, expected(new_stage, clipped, **recipe) - start
    assert twin.norm() > 0
    torch.testing.assert_close(moved, twin, rtol=2e-3, atol=2e-3 * float(twin.abs().max()) + 2e-7)


def test_accumulated_batches_are_different_ones_and_each_sample_is_counted(new_stage: MakeStage) -> None:
    recipe = {"steps": 4, "lr_scheduler": "constant"}
    one, three = new_stage(**recipe), new_stage(**recipe, accumulate_grad_batches=3)
    for stage, options in ((one, {}), (three, {"accumulate_grad_batches": 3})):
        assert trained(stage, **options).global_step == 4
        assert int(stage.seen.sum()) == stage.recipe.samples_seen
    assert three.recipe.samples_seen == 3 * one.recipe.samples_seen == 3 * 4 * 3
    assert not torch.equal(flat(one), flat(three))


def test_accumulated_batches_are_one_batch_of_their_rows(new_stage: MakeStage) -> None:
    """k batches of b rows are one of k b where the draws are the same; rates and steps count optimizer steps."""
    recipe = {"steps": 3, "lr_scheduler": Rates("linear", warmup_steps=1), "prior_loss_weight": 1.0}
    parts = new_stage(**recipe, train_batch_size=1, class_batch_size=1, accumulate_grad_batches=2)
    whole = new_stage(**recipe, train_batch_size=2, class_batch_size=2)
    drawn = parts.rows

    def joined(subject: int, number: int) -> Rows:
        one, other = (drawn(subject, 2 * number + place) for place in range(2))
        order = torch.tensor([0, 2, 1, 3])  # photos, then class pictures
        tensors = ("x_0", "noise", "t", "is_prior")
        given = {name: torch.cat([getattr(one, name), getattr(other, name)])[order] for name in tensors}
        return Rows(conditioning=Conditioning.cat([one.conditioning, other.conditioning])[order], **given)

    whole.rows = joined  # type: ignore[method-assign]
    start = flat(whole)
    steps = [
        trained(stage, accumulate_grad_batches=stage.recipe.accumulate_grad_batches).global_step
        for stage in (parts, whole)
    ]
    assert steps == [3, 3]
    moved = flat(whole) - start
    assert moved.norm() > 0
    torch.testing.assert_close(flat(parts) - start, moved, rtol=1e-3, atol=1e-3 * float(moved.abs().max()) + 2e-7)


def test_a_snapshot_of_accumulated_steps_is_taken_once(new_stage: MakeStage) -> None:
    kept: list[int] = []
    stage = new_stage(steps=3, accumulate_grad_batches=2)
    snapshots = Snapshots(ScaleTuner(), stage.base, [2, 3], lambda step, _: kept.append(step))
    trained(stage, snapshots, accumulate_grad_batches=2)
    assert kept == [2, 3]


class Flags(Callback):
    """Notes the global switches of torch during training."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.anomaly, self.deterministic = torch.is_anomaly_enabled(), torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("on", [False, True])
def test_anomalies_are_detected_and_algorithms_deterministic_where_asked(new_stage: MakeStage, on: bool) -> None:
    flags = Flags()
    try:
        trained(new_stage(steps=1), flags, detect_anomaly=on, deterministic=on)
    finally:
        torch.use_deterministic_algorithms(False)
    assert (flags.anomaly, flags.deterministic) == (on, on)


@pytest.mark.parametrize(
    "zones",
    [
        Zones((Zone("all", 0, 1000),), 1000),
        Zones((Zone("a", 0, 354), Zone("b", 354, 934), Zone("c", 934, 1000)), 1000),
        Zones((Zone("a", 10, 20), Zone("b", 500, 900)), 1000),
    ],
)
def test_what_each_expert_sees_is_counted_from_the_timesteps_drawn(
    new_stage: MakeStage, monkeypatch: pytest.MonkeyPatch, zones: Zones
) -> None:
    stage, drawn = new_stage(zones, steps=5), list[Tensor]()
    add_noise = stage.schedule.add_noise

    def noted(x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        drawn.append(t)
        return add_noise(x_0, noise, t)

    monkeypatch.setattr(stage.schedule, "add_noise", noted)
    trained(stage)
    t = torch.cat(drawn)
    assert len(t) == 5 * 3
    assert stage.seen.tolist() == [[int(((t >= z.start) & (t < z.stop)).sum()) for z in zones.zones]]
