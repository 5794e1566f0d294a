"""Callbacks: exactly the chosen steps are saved, and previews do not change training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.sampler import Sampler
from quantbooth.quant import scale_sets
from quantbooth.sampling.image_set import Request
from quantbooth.sampling.module import SamplingModule
from quantbooth.tuning.callbacks import SampleGrids, Snapshots
from quantbooth.tuning.module import TuningModule
from quantbooth.tuning.tuner import State
from quantbooth.tuning.tuners import ScaleTuner

MakeStage = Callable[..., TuningModule]
Fit = Callable[..., None]
WATCHED = [Request(f"{i}.png", text, text, text, "plain", 0) for i, text in enumerate(["a red mug", "a duck"])]


def grids(base: Base, stage: TuningModule, every: int, folder: Path) -> SampleGrids:
    return SampleGrids(
        lambda: base.with_denoiser(stage.denoiser), Sampler("ddim", 2, 4.0), WATCHED, every, folder, stage.kept
    )


def snapshots(base: Base, stage: TuningModule, steps: list[int], states: dict[int, State]) -> Snapshots:
    return Snapshots(ScaleTuner(), base.with_denoiser(stage.denoiser), steps, states.__setitem__, stage.kept)


def test_exactly_the_steps_asked_for_are_kept(new_stage: MakeStage, small_base: Base, fit: Fit) -> None:
    stage = new_stage(steps=4)
    states: dict[int, State] = {}
    fit(stage, [snapshots(small_base, stage, [4, 1], states)])
    assert sorted(states) == [1, 4]
    final = scale_sets.read(stage.denoiser)
    assert all(torch.equal(states[4][name], final[name]) for name in final)
    assert not any(torch.equal(states[1][name], final[name]) for name in final)


def test_what_is_kept_after_a_step_is_what_a_run_of_that_length_learns(
    new_stage: MakeStage, small_base: Base, fit: Fit
) -> None:
    long, short = new_stage(steps=3, lr_scheduler="constant"), new_stage(steps=2, lr_scheduler="constant")
    states: dict[int, State] = {}
    fit(long, [snapshots(small_base, long, [2], states)])
    fit(short)
    learned = scale_sets.read(short.denoiser)
    assert all(torch.equal(states[2][name], learned[name]) for name in learned)


def test_watching_draws_a_grid_every_so_many_steps_and_changes_no_bit(
    new_stage: MakeStage, small_base: Base, fit: Fit, tmp_path: Path
) -> None:
    watched, alone = new_stage(steps=4), new_stage(steps=4)
    fit(watched, [grids(small_base, watched, 2, tmp_path / "logs" / "run")])
    fit(alone)
    assert sorted(file.name for file in (tmp_path / "logs" / "run").iterdir()) == ["step-000002.png", "step-000004.png"]
    learned, expected = scale_sets.read(watched.denoiser), scale_sets.read(alone.denoiser)
    assert all(torch.equal(learned[name], expected[name]) for name in expected)


def test_a_grid_is_a_row_of_crisp_pictures_of_the_model_as_it_is(
    new_stage: MakeStage, small_base: Base, fit: Fit, tmp_path: Path
) -> None:
    stage = new_stage(steps=1)
    watching = grids(small_base, stage, 1, tmp_path)
    fit(stage, [watching])
    shown = np.asarray(Image.open(tmp_path / "step-000001.png"))
    assert shown.shape == (4 * 32, 2 * 4 * 32, 3)
    assert (shown == np.kron(shown[::4, ::4], np.ones((4, 4, 1), dtype=np.uint8))).all()
    left, _ = SamplingModule(watching.base(), watching.sampler, watching.jobs).render(watching.jobs)
    torch.testing.assert_close(
        torch.from_numpy(shown[::4, :128:4].copy()) / 255, left.permute(1, 2, 0), rtol=0, atol=0.51 / 255
    )


@pytest.mark.parametrize(("side", "times"), [(32, 4), (64, 4), (72, 1)])
def test_small_pictures_are_shown_four_times_as_large(
    new_stage: MakeStage,
    small_base: Base,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    side: int,
    times: int,
) -> None:
    monkeypatch.setattr(SamplingModule, "render", lambda *_: torch.rand(2, 3, side, side))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    stage = new_stage()
    grids(small_base, stage, 1, tmp_path).show(trainer, stage)
    assert Image.open(tmp_path / "step-000000.png").size == (2 * side * times, side * times)


def test_averages_are_what_is_kept_and_shown_and_learning_goes_on_from_the_numbers_themselves(
    new_stage: MakeStage, small_base: Base, fit: Fit, tmp_path: Path
) -> None:
    averaged, plain = new_stage(steps=4, ema_decay=0.5), new_stage(steps=4)
    kept: dict[int, State] = {}
    steps: dict[int, State] = {}
    watching = grids(small_base, averaged, 4, tmp_path)
    fit(averaged, [snapshots(small_base, averaged, [1, 2, 3, 4], kept), watching])
    fit(plain, [snapshots(small_base, plain, [1, 2, 3, 4], steps)])
    for name, last in scale_sets.read(plain.denoiser).items():
        assert torch.equal(scale_sets.read(averaged.denoiser)[name], last)
        expected = steps[1][name].double()
        for n in (1, 2, 3):
            decay = min(0.5, (1 + n) / (10 + n))
            expected = decay * expected + (1 - decay) * steps[n + 1][name].double()
            torch.testing.assert_close(kept[n + 1][name].double(), expected, rtol=1e-6, atol=1e-7)
    with averaged.kept():
        left, _ = SamplingModule(watching.base(), watching.sampler, watching.jobs).render(watching.jobs)
    shown = torch.from_numpy(np.asarray(Image.open(tmp_path / "step-000004.png"))[::4, :128:4].copy()) / 255
    torch.testing.assert_close(shown, left.permute(1, 2, 0), rtol=0, atol=0.51 / 255)


@pytest.mark.parametrize("every", [0, 5])
def test_nothing_is_drawn_when_nothing_is_asked_for(
    new_stage: MakeStage, small_base: Base, fit: Fit, tmp_path: Path, every: int
) -> None:
    stage = new_stage(steps=1)
    fit(stage, [grids(small_base, stage, every, tmp_path / "run")])
    assert not (tmp_path / "run").exists()
