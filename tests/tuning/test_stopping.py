"""Stopping: the statistic against a slow twin, the frozen batch row by row, and the bits of a run that was stopped."""

from collections.abc import Callable
from statistics import variance as slow_variance
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.quant import scale_sets
from quantbooth.runtime.draws import generator_for
from quantbooth.timesteps.zones import Zones
from quantbooth.tuning.callbacks import Snapshots
from quantbooth.tuning.module import TuningModule
from quantbooth.tuning.stopping import AT_THE_END, BY_LOSS, BY_PROMPTS, ROWS, Stopping, Stops, variance_share
from quantbooth.tuning.tuner import State
from quantbooth.tuning.tuners import ScaleTuner

MakeStage = Callable[..., TuningModule]
Fit = Callable[..., None]
NEVER = Stopping(1, 2, 0.0, None)


def watched(
    stage: TuningModule, base: Base, steps: list[int], stopping: Stopping, **more: Any
) -> tuple[list[Any], Stops, dict[int, State]]:
    """The callbacks of a run, its stops, and the states that it keeps."""
    states: dict[int, State] = {}
    kept = Snapshots(ScaleTuner(), base.with_denoiser(stage.denoiser), steps, states.__setitem__, stage.kept)
    stops = Stops(stopping, stage, kept, **more)
    return [kept, stops], stops, states


@pytest.mark.parametrize("window", [2, 3, 5])
def test_the_share_is_that_of_a_slow_twin(window: int) -> None:
    draw = torch.Generator().manual_seed(window)
    losses = torch.rand(9, generator=draw).tolist()
    for count in range(len(losses) + 1):
        seen = losses[:count]
        expected = None
        if count > window:
            expected = slow_variance(seen[-window:]) / slow_variance(seen[:window])
        found = variance_share(seen, window)
        assert found is None if expected is None else found == pytest.approx(expected, rel=1e-12)


def test_a_loss_that_never_varied_has_no_share() -> None:
    assert variance_share([0.5] * 6, 3) is None


def test_looking_changes_no_bit_and_the_batch_is_the_same_at_every_look(
    new_stage: MakeStage, small_base: Base, fit: Fit
) -> None:
    looked, alone = new_stage(steps=4), new_stage(steps=4)
    callbacks, stops, _ = watched(looked, small_base, [4], NEVER)
    fit(looked, callbacks)
    fit(alone)
    learned, expected = scale_sets.read(looked.denoiser), scale_sets.read(alone.denoiser)
    assert all(torch.equal(learned[name], expected[name]) for name in expected)
    assert len(stops.losses) == 4  # before the first step and after each but the last
    assert len(set(stops.losses)) == 4
    assert (stops.at, stops.by, stops.why) == (4, AT_THE_END, "its last step")


def slow_loss(stage: TuningModule) -> float:
    """The weighted error of each row alone, by the schedule's formula."""
    photos, draw, errors = stage.examples[0].subject, generator_for(stage.recipe.seed, 0, "stopping"), []
    x_0 = photos[torch.arange(ROWS) % len(photos)]
    noise = torch.randn(x_0.shape, generator=draw)
    for i, t in enumerate(stage.zones.draw(ROWS, draw)):
        snr = float(stage.schedule.snr()[t])
        abar = torch.tensor(snr / (1 + snr), dtype=torch.float64)
        x_t = (abar.sqrt() * x_0[i].double() + (1 - abar).sqrt() * noise[i].double()).float()
        with torch.no_grad():
            predicted = stage.base.predict(x_t[None], t[None], stage.examples[0].subject_text)[0]
        weight = 1.0 if stage.recipe.loss_weight_max is None else min(float(1 / abar), stage.recipe.loss_weight_max)
        target = stage.schedule.target(x_0[i][None], noise[i][None], t[None])[0]
        errors.append(weight * float((predicted.double() - target.double()).square().mean()))
    return sum(errors) / ROWS


@pytest.mark.parametrize("most", [None, 3.0])
def test_the_loss_on_the_frozen_batch_is_that_of_a_slow_twin(
    new_stage: MakeStage, small_base: Base, most: float | None
) -> None:
    stage = new_stage(loss_weight_max=most)
    _, stops, _ = watched(stage, small_base, [], NEVER)
    with torch.no_grad():
        assert stops.loss() == pytest.approx(slow_loss(stage), rel=1e-4)


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_stopped_run_has_the_bits_of_the_longer_one_at_that_step(
    new_stage: MakeStage, small_base: Base, fit: Fit, ema_decay: float | None
) -> None:
    longer, steps = new_stage(steps=8, ema_decay=ema_decay), list(range(1, 9))
    callbacks, seen, states = watched(longer, small_base, steps, NEVER)
    fit(longer, callbacks)
    shares = {n: variance_share(seen.losses[: n + 1], 2) for n in range(2, 8)}  # losses[0] is before the first step
    limit = sorted(share for share in shares.values() if share is not None)[1]  # the second smallest stops nothing
    expected = min(n for n, share in shares.items() if share is not None and share < limit)
    short = new_stage(steps=8, ema_decay=ema_decay)
    callbacks, stops, kept = watched(short, small_base, [1, 8], Stopping(1, 2, limit, None))
    fit(short, callbacks)
    assert (stops.at, stops.by) == (expected, BY_LOSS)
    assert stops.losses == seen.losses[: expected + 1]
    assert sorted(kept) == [1, 8]
    for step, same in ((1, 1), (8, expected)):
        assert all(torch.equal(kept[step][name], tensor) for name, tensor in states[same].items())
    assert int(short.seen.sum()) == expected * short.recipe.batch


def test_a_drop_of_prompt_fidelity_stops_at_the_first_look_that_sees_it(
    new_stage: MakeStage, small_base: Base, fit: Fit
) -> None:
    told = iter([0.80, 0.79, 0.775, 0.5])
    stage = new_stage(steps=9)
    callbacks, stops, _ = watched(stage, small_base, [9], Stopping(2, 5, 0.0, 0.02), fidelity=lambda: next(told))
    fit(stage, callbacks)
    assert (stops.at, stops.by) == (4, BY_PROMPTS)
    assert stops.fidelities == [0.80, 0.79, 0.775]
    assert stops.why == "prompt fidelity fell by 0.025, more than 0.02"


def test_what_a_run_that_goes_on_had_seen_decides_with_it(new_stage: MakeStage, small_base: Base) -> None:
    stage = new_stage(steps=9)
    _, stops, _ = watched(stage, small_base, [9], Stopping(1, 2, 0.1, None))
    stops.losses += [0.5, 0.7, 0.6]
    _, other, _ = watched(stage, small_base, [9], Stopping(1, 2, 0.1, None), found=stops.numbers)
    assert other.numbers == {"losses": [0.5, 0.7, 0.6], "fidelities": []}
    other.losses.append(0.601)
    assert stops.losses == [0.5, 0.7, 0.6]
    assert other._reason() is not None and stops._reason() is None


def test_accumulated_batches_are_looked_at_after_their_step(new_stage: MakeStage, small_base: Base) -> None:
    found = []
    for looked in (True, False):
        stage = new_stage(steps=3, accumulate_grad_batches=2)
        callbacks, stops, _ = watched(stage, small_base, [3], NEVER)
        trainer = Trainer(
            accelerator="cpu",
            max_steps=3,
            max_epochs=-1,
            accumulate_grad_batches=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks if looked else [],
        )
        trainer.fit(stage)
        found.append(scale_sets.read(stage.denoiser))
        assert len(stops.losses) == (3 if looked else 0)
    assert all(torch.equal(found[0][name], tensor) for name, tensor in found[1].items())


def test_tensors_are_those_of_the_seed(new_stage: MakeStage, small_base: Base) -> None:
    def frozen(**recipe: Any) -> tuple[Tensor, Tensor, Tensor]:
        stage = new_stage(**recipe)
        return watched(stage, small_base, [], NEVER)[1]._frozen()

    one, same, other = frozen(), frozen(), frozen(seed=99)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[1], other[1])


def test_timesteps_are_drawn_by_the_density_of_training(new_stage: MakeStage, small_base: Base) -> None:
    class Last:
        def draw(self, zones: Zones, count: int, generator: torch.Generator) -> Tensor:
            return torch.full((count,), zones.zones[-1].stop - 1)

    stage = new_stage()
    stage.timesteps = Last()  # type: ignore[assignment]
    t = watched(stage, small_base, [], NEVER)[1]._frozen()[2]
    assert t.tolist() == [stage.zones.zones[-1].stop - 1] * ROWS
