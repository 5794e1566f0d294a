"""Tuning: the loss and its gradients against a float64 twin, each set from its own timesteps only, seeds that decide."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from quantbooth.data.draws import generator_for
from quantbooth.diffusion.losses import denoising_error
from quantbooth.diffusion.router import route_unet_
from quantbooth.diffusion.schedule import Schedule
from quantbooth.errors import UserError
from quantbooth.quant import scale_sets
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.selection import Selection
from quantbooth.stages.tuning import Examples, Recipe, TuningStage
from quantbooth.timesteps.strategies import s1
from quantbooth.timesteps.zones import Zone, Zones, equal_zones, zones_from_borders
from quantbooth.toyworld.models import SCHEDULE

MakeUnet = Callable[[], Any]
ZONES = zones_from_borders({"clean_up": [0, 200], "content": [200, 700], "coarse": [700, 1000]}, 1000)
RECIPE = Recipe(steps=3, subject_batch=2, prior_batch=1, prior_weight=0.5, weight_bound=8.0, decay=True, seed=0)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)


def stage_for(unet: Any, examples: Examples, zones: Zones = ZONES, recipe: Recipe = RECIPE) -> TuningStage:
    """A stage as quantbooth-tune makes it."""
    selection = Selection()
    scale_sets.attach_(unet, len(zones), selection)
    route_unet_(unet, zones.index, selection)
    return TuningStage(unet, scale_sets.parameters(unet), examples, zones, Schedule(SCHEDULE), recipe, adamw)


def shaken(unet: Any) -> Any:
    """The same unet, its gains no longer 1."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for gain in scale_sets.parameters(unet):
            gain.mul_(1 + 0.3 * torch.randn(gain.shape, generator=draw))
    return unet


def fit(stage: TuningStage) -> dict[str, Tensor]:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=stage.recipe.steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(stage)
    return scale_sets.gains(stage.unet)


def quiet(stage: TuningStage, monkeypatch: pytest.MonkeyPatch) -> TuningStage:
    """The stage without a trainer to log to."""
    monkeypatch.setattr(stage, "log", lambda *_, **__: None)
    return stage


def gradients(stage: TuningStage, loss: Tensor) -> dict[str, Tensor]:
    names = [name for name, _ in quantized_layers(stage.unet)]
    return dict(zip(names, torch.autograd.grad(loss, stage.learning), strict=True))


def errors_of(stage: TuningStage, t: list[int], seed: int = 0) -> Tensor:
    """Per-sample errors of a batch at these timesteps."""
    draw = torch.Generator().manual_seed(seed)
    x_0, noise = torch.randn(2, len(t), 24, 8, 8, generator=draw).unbind()
    text = torch.randn(len(t), 26, 128, generator=draw)
    return denoising_error(stage.unet, stage.schedule, x_0, noise, torch.tensor(t), text)


class Twin:
    """The slow way in float64: a plain float unet whose weights are dequantized with s = s0 * gain, one set at a time."""

    def __init__(self, stage: TuningStage, float_unet: Any) -> None:
        self.unet, self.stage = float_unet.double(), stage
        self.layers = dict(quantized_layers(stage.unet))
        self.gains = {name: layer.gain.detach().double().requires_grad_() for name, layer in self.layers.items()}
        self.others = {name: tensor.double() for name, tensor in stage.unet.state_dict().items()}

    def weights(self, k: int) -> dict[str, Tensor]:
        """All parameters as set k has them."""
        made = {}
        for name, _ in self.unet.named_parameters():
            layer = self.layers.get(name.removesuffix(".weight"))
            if layer is not None and name.endswith(".weight"):
                gain = 1.0 if k == 0 else self.gains[name.removesuffix(".weight")][k - 1]
                scale = (layer.scale.double() * gain).view(-1, *[1] * (len(layer.shape) - 1))
                made[name] = layer.dequantized().double() / layer.scale.double().view_as(scale) * scale
            else:
                made[name] = self.others[name]
        return made

    def error(self, x_0: Tensor, noise: Tensor, t: int, text: Tensor) -> Tensor:
        """Mean squared error of one sample."""
        alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)[t]
        x_t = alpha_bar.sqrt() * x_0.double() + (1 - alpha_bar).sqrt() * noise.double()
        weights = self.weights(int(self.stage.zones.index(torch.tensor([t]))))
        options = {"encoder_hidden_states": text.double()[None]}
        guess = torch.func.functional_call(self.unet, weights, (x_t[None], torch.tensor(t)), options).sample[0]
        return (guess - noise.double()).square().mean() * min(1 / float(alpha_bar), 8.0)


def test_loss_and_every_gains_gradient_equal_those_of_the_float64_twin(
    quantized: MakeUnet, small_base: Any, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole objective: photos and class pictures, each at its own timestep and from its own set, in one batch."""
    from_copy = quantized()
    stage = quiet(stage_for(from_copy, examples, recipe=replace(RECIPE, subject_batch=3, prior_batch=2)), monkeypatch)
    shaken(stage.unet)
    loss = stage.training_step(0)
    draw = generator_for(RECIPE.seed, 0, "tune")
    x_0, text, is_prior = stage.batch(draw)
    noise = torch.randn(x_0.shape, generator=draw)
    t = ZONES.draw(5, draw).tolist()
    assert len(set(ZONES.index(torch.tensor(t)).tolist())) > 1
    twin = Twin(stage, type(small_base.unet).from_config(small_base.unet.config))
    errors = torch.stack([twin.error(x_0[i], noise[i], t[i], text[i]) for i in range(5)])
    expected = errors[is_prior == 0].mean() + 0.5 * errors[is_prior == 1].mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)
    slow = dict(zip(twin.gains, torch.autograd.grad(expected, list(twin.gains.values())), strict=True))
    for name, gradient in gradients(stage, loss).items():
        limit = 1e-4 * float(slow[name].abs().max())
        torch.testing.assert_close(
            gradient.double(), slow[name], rtol=1e-3, atol=limit, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_one_gains_gradient_is_what_finite_differences_say(quantized: MakeUnet, examples: Examples) -> None:
    stage = stage_for(quantized(), examples)
    shaken(stage.unet)
    t = [100, 400, 800]
    name, layer = next(iter(quantized_layers(stage.unet)))
    assert layer.gain is not None
    gradient = gradients(stage, errors_of(stage, t).sum())[name][1]
    channel = int(gradient.abs().argmax())
    values = []
    for step in (1e-2, -1e-2):
        with torch.no_grad():
            layer.gain[1, channel] += step
            values.append(float(errors_of(stage, t).double().sum()))
            layer.gain[1, channel] -= step
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(float(gradient[channel]), rel=0.02)


def test_a_mixed_batch_equals_separate_calls(quantized: MakeUnet, examples: Examples) -> None:
    """Loss and gradients, the base (uncovered timesteps) among the sets."""
    zones = Zones((Zone("a", 0, 200), Zone("b", 300, 700)), 1000)
    stage = stage_for(quantized(), examples, zones)
    shaken(stage.unet)
    t = [100, 250, 500, 199, 900]
    together = errors_of(stage, t)
    draw = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 5, 24, 8, 8, generator=draw).unbind()
    text = torch.randn(5, 26, 128, generator=draw)
    alone = torch.cat(
        [
            denoising_error(
                stage.unet, stage.schedule, x_0[i, None], noise[i, None], torch.tensor([t[i]]), text[i, None]
            )
            for i in range(5)
        ]
    )
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients(stage, together.sum()), gradients(stage, alone.sum()), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("t", "zone"), [([0, 150, 199], 0), ([200, 699], 1), ([700, 850, 999], 2)])
def test_a_batch_of_one_zone_moves_no_other_set(
    quantized: MakeUnet, examples: Examples, t: list[int], zone: int
) -> None:
    stage = stage_for(quantized(), examples)
    for name, gradient in gradients(stage, errors_of(stage, t).sum()).items():
        assert gradient[zone].abs().max() > 0, name
        assert gradient[[k for k in range(3) if k != zone]].abs().max() == 0, name


def test_uncovered_timesteps_teach_nothing(quantized: MakeUnet, examples: Examples) -> None:
    stage = stage_for(quantized(), examples, Zones((Zone("content", 200, 700),), 1000))
    found = gradients(stage, errors_of(stage, [0, 199, 700, 999]).sum())
    assert all(gradient.abs().max() == 0 for gradient in found.values())


def test_an_expert_feels_its_own_zones_samples_only(quantized: MakeUnet, examples: Examples) -> None:
    """Other samples of a mixed batch may be anything."""
    stage = stage_for(quantized(), examples)
    shaken(stage.unet)
    draw = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 3, 24, 8, 8, generator=draw).unbind()
    text, found = torch.randn(3, 26, 128, generator=draw), []
    for other in (0.0, 5.0):
        x_0[[0, 2]], text[[0, 2]] = other, other
        errors = denoising_error(stage.unet, stage.schedule, x_0, noise, torch.tensor([100, 400, 800]), text)
        found.append(gradients(stage, errors.sum()))
    for name in found[0]:
        torch.testing.assert_close(found[0][name][1], found[1][name][1], rtol=1e-5, atol=1e-8)
        assert not torch.equal(found[0][name][0], found[1][name][0])


def test_outside_its_interval_s1_is_the_untuned_base_bit_for_bit(quantized: MakeUnet, examples: Examples) -> None:
    base, strategy = quantized(), s1([200, 700], "base", 1000)
    stage = stage_for(quantized(), examples, strategy.trained)
    fit(stage)
    tuned = stage.unet.eval()
    draw = torch.Generator().manual_seed(0)
    x, text = torch.randn(6, 24, 8, 8, generator=draw), torch.randn(6, 26, 128, generator=draw)
    t = torch.tensor([0, 199, 200, 699, 700, 999])
    with torch.no_grad():
        before, after = (unet(x, t, encoder_hidden_states=text).sample for unet in (base, tuned))
    same = [torch.equal(before[i], after[i]) for i in range(6)]
    assert same == [True, True, False, False, True, True]


def test_equal_seeds_learn_equal_gains_bit_for_bit_and_others_do_not(quantized: MakeUnet, examples: Examples) -> None:
    torch.manual_seed(1)
    one = fit(stage_for(quantized(), examples))
    torch.manual_seed(2)
    again = fit(stage_for(quantized(), examples))
    other = fit(stage_for(quantized(), examples, recipe=replace(RECIPE, seed=1)))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_a_set_whose_zone_was_never_drawn_is_still_the_base(quantized: MakeUnet, examples: Examples) -> None:
    zones = Zones((Zone("first", 0, 1), Zone("most", 1, 999), Zone("last", 999, 1000)), 1000)
    stage = stage_for(quantized(), examples, zones)
    learned = fit(stage)
    for gain in learned.values():
        assert (gain[[0, 2]] == 1).all()
        assert (gain[1] != 1).any()


def test_tuning_moves_gains_and_nothing_else(quantized: MakeUnet, examples: Examples) -> None:
    stage, before = stage_for(quantized(), examples), quantized().state_dict()
    fit(stage)
    after = stage.unet.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert set(after) - set(before) == {f"{name}.gain" for name, _ in quantized_layers(stage.unet)}


@pytest.mark.parametrize(("photos", "others"), [(2, 3), (1, 0), (6, 1)])
def test_a_batch_is_photos_then_class_pictures_each_beside_its_sentence(
    quantized: MakeUnet, examples: Examples, photos: int, others: int
) -> None:
    stage = stage_for(quantized(), examples, recipe=replace(RECIPE, subject_batch=photos, prior_batch=others))
    x_0, text, is_prior = stage.batch(torch.Generator().manual_seed(0))
    assert is_prior.tolist() == [0.0] * photos + [1.0] * others
    assert x_0.shape == (photos + others, 24, 8, 8)
    for i, sample in enumerate(x_0):
        source = examples.prior if i >= photos else examples.subject
        assert any(torch.equal(sample, picture) for picture in source)
        assert torch.equal(text[i], examples.prior_text if i >= photos else examples.subject_text)


def test_every_photo_is_drawn_about_equally_often(quantized: MakeUnet, examples: Examples) -> None:
    stage = stage_for(quantized(), examples, recipe=replace(RECIPE, subject_batch=1000, prior_batch=0))
    x_0, _, _ = stage.batch(torch.Generator().manual_seed(0))
    counts = [(x_0 == photo).all(dim=(1, 2, 3)).sum().item() for photo in examples.subject]
    assert sum(counts) == 1000
    assert all(150 < count < 250 for count in counts)


def test_the_rate_in_force_is_the_recipes(quantized: MakeUnet, examples: Examples) -> None:
    stage = stage_for(quantized(), examples, equal_zones(1, 1000), replace(RECIPE, steps=4))
    rates: list[float] = []

    def noting(parameters: Any) -> torch.optim.Optimizer:
        optimizer = sgd(parameters)
        optimizer.register_step_pre_hook(lambda made, *_: rates.append(made.param_groups[0]["lr"]))
        return optimizer

    stage.optimizer_factory = noting
    fit(stage)
    assert rates == pytest.approx([0.1 * stage.recipe.rate_at(step) for step in range(4)])


def test_the_rate_falls_along_half_a_cosine_or_stays() -> None:
    falling, staying = replace(RECIPE, steps=100), replace(RECIPE, steps=100, decay=False)
    rates = [falling.rate_at(step) for step in range(101)]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[50], rates[100]) == pytest.approx((1, 0.5, 0), abs=1e-6)
    assert {staying.rate_at(step) for step in range(101)} == {1.0}


def test_samples_seen_are_steps_times_photos_and_class_pictures() -> None:
    assert replace(RECIPE, steps=200, subject_batch=2, prior_batch=2).samples_seen == 800
    assert replace(RECIPE, steps=200, subject_batch=4, prior_batch=0).samples_seen == 800


def test_a_loss_that_is_no_number_ends_the_run(quantized: MakeUnet, examples: Examples) -> None:
    broken = replace(examples, subject=examples.subject * float("inf"))
    with pytest.raises(UserError, match=r"^the loss became nan in step 1; lower tuner\.learning_rate$"):
        fit(stage_for(quantized(), broken))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "tuner.steps must be a whole number >= 1, got 0"),
        ({"steps": 2.0}, "tuner.steps must be a whole number >= 1, got 2.0"),
        ({"subject_batch": 0}, "tuner.subject_batch must be a whole number >= 1, got 0"),
        ({"prior_batch": -1}, "prior.batch must be a whole number >= 0, got -1"),
        ({"prior_weight": -0.5}, "prior.weight must be a number >= 0, got -0.5"),
        ({"weight_bound": 0.5}, "tuner.weight_bound must be a number >= 1, got 0.5"),
        ({"seed": -1}, "seed must be a whole number >= 0 and < 4294967296, got -1"),
    ],
)
def test_impossible_recipes_are_refused_by_the_options_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        replace(RECIPE, **change)
    assert str(caught.value) == message
