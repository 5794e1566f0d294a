"""Training runs: reproducible by seed, changing only gains, each set in its own zone only."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from quantbooth.quant import scale_sets
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.scale_sets import Parts
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.samplers import Listed, Uniform
from quantbooth.timesteps.strategies import s1
from quantbooth.timesteps.zones import Zone, Zones, equal_zones
from quantbooth.tuning.module import TuningModule
from quantbooth.tuning.recipe import Examples, Recipe

MakeDenoiser = Callable[[], Any]
MakeStage = Callable[..., TuningModule]
Fit = Callable[[TuningModule], None]
RECIPE = Recipe(
    steps=100,
    train_batch_size=2,
    class_batch_size=2,
    prior_loss_weight=1.0,
    loss_weight_max=None,
    lr_scheduler="cosine",
    seed=0,
)


def test_equal_seeds_learn_equal_gains_bit_for_bit_and_others_do_not(new_stage: MakeStage, fit: Fit) -> None:
    learned = []
    for elsewhere, seed in enumerate((0, 0, 1)):
        torch.manual_seed(elsewhere)
        stage = new_stage(seed=seed)
        fit(stage)
        learned.append(scale_sets.read(stage.denoiser))
    one, again, other = learned
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_checkpointing_computes_blocks_twice_and_learns_the_same_bit_for_bit(new_stage: MakeStage, fit: Fit) -> None:
    learned, calls = [], [0, 0]
    for on in (False, True):
        stage = new_stage()
        denoiser: Any = stage.denoiser
        if on:
            denoiser.enable_gradient_checkpointing()

        def count(*_: object, on: bool = on) -> None:
            calls[on] += 1

        denoiser.get_submodule("up_blocks.0.resnets.0").register_forward_pre_hook(count)
        fit(stage)
        learned.append(scale_sets.read(stage.denoiser))
    off, on_too = learned
    assert all(torch.equal(off[name], on_too[name]) for name in off)
    assert calls == [stage.recipe.steps, 2 * stage.recipe.steps]


def test_outside_its_interval_s1_is_the_untuned_base_bit_for_bit(
    quantized: MakeDenoiser, new_stage: MakeStage, fit: Fit
) -> None:
    base, stage = quantized(), new_stage(s1([200, 700], "base", 1000).training_zones)
    fit(stage)
    draw = torch.Generator().manual_seed(0)
    x, text = torch.randn(6, 24, 8, 8, generator=draw), torch.randn(6, 26, 128, generator=draw)
    t = torch.tensor([0, 199, 200, 699, 700, 999])
    with torch.no_grad():
        before, after = (denoiser(x, t, encoder_hidden_states=text).sample for denoiser in (base, stage.denoiser))
    same = [torch.equal(before[i], after[i]) for i in range(6)]
    assert same == [True, True, False, False, True, True]


def test_a_set_whose_zone_was_never_drawn_is_still_the_base(new_stage: MakeStage, fit: Fit) -> None:
    stage = new_stage(Zones((Zone("first", 0, 1), Zone("most", 1, 999), Zone("last", 999, 1000)), 1000))
    fit(stage)
    for gain in scale_sets.read(stage.denoiser).values():
        assert (gain[[0, 2]] == 1).all()
        assert (gain[1] != 1).any()


def test_tuning_moves_gains_and_nothing_else(quantized: MakeDenoiser, new_stage: MakeStage, fit: Fit) -> None:
    stage, before = new_stage(), quantized().state_dict()
    fit(stage)
    after = stage.denoiser.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert set(after) - set(before) == {f"{name}.gain_out" for name, _ in quantized_layers(stage.denoiser)}


@pytest.mark.parametrize(("photos", "others"), [(2, 3), (1, 0), (6, 1)])
def test_a_batch_is_photos_then_class_pictures_each_beside_its_sentence(
    new_stage: MakeStage, examples: Examples, photos: int, others: int
) -> None:
    stage = new_stage(train_batch_size=photos, class_batch_size=others)
    x_0, text, is_prior = stage.batch(torch.Generator().manual_seed(0))
    assert is_prior.tolist() == [0.0] * photos + [1.0] * others
    assert x_0.shape == (photos + others, 24, 8, 8)
    for i, sample in enumerate(x_0):
        source = cast(Tensor, examples.prior if i >= photos else examples.subject)
        assert any(torch.equal(sample, picture) for picture in source)
        assert torch.equal(text.tokens[i], (examples.prior_text if i >= photos else examples.subject_text).tokens[0])


def test_every_photo_is_drawn_about_equally_often(new_stage: MakeStage, examples: Examples) -> None:
    x_0, _, _ = new_stage(train_batch_size=1000, class_batch_size=0).batch(torch.Generator().manual_seed(0))
    counts = [int((x_0 == photo).all(dim=(1, 2, 3)).sum()) for photo in cast(Tensor, examples.subject)]
    assert sum(counts) == 1000
    assert all(150 < count < 250 for count in counts)


def test_the_rate_in_force_is_the_recipes(new_stage: MakeStage, fit: Fit) -> None:
    stage, rates = new_stage(equal_zones(1, 1000), steps=4), []

    def noting(parameters: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        optimizer.register_step_pre_hook(lambda made, *_: rates.append(made.param_groups[0]["lr"]))
        return optimizer

    stage.optimizer_factory = noting
    fit(stage)
    assert rates == pytest.approx([0.1 * stage.recipe.rate_at(step) for step in range(4)])


def test_each_kind_of_numbers_has_its_rate_and_all_fall_together(new_stage: MakeStage, fit: Fit) -> None:
    stage, seen = new_stage(parts=Parts(norms=True), steps=4, rates={"shifts": 0.01}), []

    def noting(groups: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(groups, lr=0.1)
        optimizer.register_step_pre_hook(lambda made, *_: seen.append([group["lr"] for group in made.param_groups]))
        return optimizer

    stage.optimizer_factory = noting
    fit(stage)
    assert list(stage.learning) == ["gains", "shifts"]
    for step, rates in enumerate(seen):
        assert rates == pytest.approx([0.1 * stage.recipe.rate_at(step), 0.01 * stage.recipe.rate_at(step)])


def test_a_rate_of_0_leaves_its_numbers_where_they_start(new_stage: MakeStage, fit: Fit) -> None:
    stage = new_stage(parts=Parts(biases=True, norms=True), rates={"shifts": 0.0})
    fit(stage)
    assert all((shift == 0).all() for shift in stage.learning["shifts"])
    assert all((gain != 1).any() for gain in stage.learning["gains"])


def test_the_rate_falls_along_half_a_cosine_or_stays() -> None:
    rates = [RECIPE.rate_at(step) for step in range(101)]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[50], rates[100]) == pytest.approx((1, 0.5, 0), abs=1e-6)
    assert {replace(RECIPE, lr_scheduler="constant").rate_at(step) for step in range(101)} == {1.0}


def test_samples_seen_are_steps_times_photos_and_class_pictures() -> None:
    assert replace(RECIPE, steps=200).samples_seen == 800
    assert replace(RECIPE, steps=200, train_batch_size=4, class_batch_size=0).samples_seen == 800


def test_a_loss_that_is_no_number_ends_the_run(new_stage: MakeStage, examples: Examples, fit: Fit) -> None:
    broken = replace(examples, subject=cast(Tensor, examples.subject) * float("inf"))
    with pytest.raises(UserError, match=r"^the loss became nan in step 1; lower tuner\.learning_rate$"):
        fit(new_stage(seen=broken))


def test_every_step_draws_its_own_photos_noise_and_timesteps(new_stage: MakeStage, fit: Fit) -> None:
    stage, drawn = new_stage(train_batch_size=4, class_batch_size=4, steps=4), []
    rows = stage.rows

    def noted(subject: int, number: int) -> Any:
        drawn.append(rows(subject, number))
        return drawn[-1]

    stage.rows = noted  # type: ignore[method-assign]
    fit(stage)
    assert len(drawn) == 4
    for part in ("x_0", "noise", "t"):
        assert len({getattr(one, part).numpy().tobytes() for one in drawn}) == 4, part


def test_the_loss_of_several_subjects_is_the_sum_of_theirs(
    new_stage: MakeStage, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So each subject's sets get the gradient that they get alone."""
    one = new_stage()
    learning, zones, recipe = one.learning, one.zones, one.recipe
    both = TuningModule(one.base, learning, [examples, examples], zones, recipe, one.optimizer_factory)
    for stage in (one, both):
        monkeypatch.setattr(stage, "log", lambda *_, **__: None)  # there is no trainer
    torch.testing.assert_close(both.training_step(0), 2 * one.training_step(0))


def test_steps_draw_by_the_density_in_the_zones_of_the_run(new_stage: MakeStage) -> None:
    stage = new_stage()
    before = [stage.rows(0, number).t for number in range(4)]
    stage.timesteps = Uniform()
    assert all(torch.equal(stage.rows(0, number).t, t) for number, t in enumerate(before))
    stage.timesteps = Listed(tuple(float(t == 321) for t in range(1000)), "reject")
    assert {int(t) for number in range(4) for t in stage.rows(0, number).t} == {321}
