"""Training loss and gradients against a float64 twin; each set's gradient comes from its own zone only."""

from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.objective import denoising_error
from quantbooth.quant import scale_sets
from quantbooth.quant.format import unpack
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.per_channel import normalizations
from quantbooth.quant.scale_sets import OUTPUTS, Parts
from quantbooth.runtime.draws import generator_for
from quantbooth.timesteps.zones import Zone, Zones
from quantbooth.tuning.module import TuningModule

MakeStage = Callable[..., TuningModule]
CONTENT = Zones((Zone("content", 200, 700),), 1000)
EVERYTHING = Parts(inputs=True, biases=True, norms=True)
both = pytest.mark.parametrize("parts", [OUTPUTS, EVERYTHING], ids=["outputs", "everything"])


def shaken(stage: TuningModule) -> TuningModule:
    """The same stage, its gains no longer 1 and its shifts no longer 0."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for gain in stage.learning["gains"]:
            gain.mul_(1 + 0.3 * torch.randn(gain.shape, generator=draw))
        for shift in stage.learning.get("shifts", []):
            shift.add_(0.1 * torch.randn(shift.shape, generator=draw))
    return stage


def batch(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random latents, noise and tokens of sentences."""
    draw = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, count, 24, 8, 8, generator=draw).unbind()
    return x_0, noise, torch.randn(count, 26, 128, generator=draw)


def errors_of(stage: TuningModule, t: list[int]) -> Tensor:
    """Per-sample errors of a random batch at these timesteps."""
    x_0, noise, text = batch(len(t))
    return denoising_error(stage.base, stage.schedule, x_0, noise, torch.tensor(t), Conditioning(text))


def gradients(stage: TuningModule, loss: Tensor) -> dict[str, Tensor]:
    learning = {name: numbers for name, numbers in stage.denoiser.named_parameters() if numbers.requires_grad}
    assert len(learning) == len(stage.numbers)
    return dict(zip(learning, torch.autograd.grad(loss, list(learning.values())), strict=True))


class Twin:
    """The slow way in float64: a plain denoiser whose weights carry a set's numbers, one set and sample at a time."""

    def __init__(self, stage: TuningModule, float_denoiser: Any) -> None:
        self.denoiser, self.zones = float_denoiser.double(), stage.zones
        self.layers = dict(quantized_layers(stage.denoiser))
        self.norms = dict(normalizations(stage.denoiser))
        self.sets = {name: rows.double().requires_grad_() for name, rows in scale_sets.read(stage.denoiser).items()}
        self.others = {name: tensor.double() for name, tensor in stage.denoiser.state_dict().items()}

    def row(self, name: str, k: int, start: float) -> Tensor | float:
        return self.sets[name][k - 1] if name in self.sets else start

    def weights(self, k: int) -> dict[str, Tensor]:
        """All parameters as set k has them."""
        made = {name: self.others[name] for name, _ in self.denoiser.named_parameters() if name in self.others}
        for name, layer in self.layers.items():
            q = unpack(layer.codes, layer.bits, prod(layer.shape[1:])).double() - layer.zero[:, None]
            scale = layer.scale.double() * self.row(f"{name}.gain_out", k, 1)
            per_input = (q * scale[:, None]).view(layer.shape).movedim(1, -1) * self.row(f"{name}.gain_in", k, 1)
            made[f"{name}.weight"] = per_input.movedim(-1, 1)
            if layer.bias is not None:
                made[f"{name}.bias"] = layer.bias.double() + self.row(f"{name}.shift", k, 0)
        for name in self.norms:
            gain, shift = self.row(f"{name}.gain_out", k, 1), self.row(f"{name}.shift", k, 0)
            made[f"{name}.weight"] = made[f"{name}.weight"] * gain
            made[f"{name}.bias"] = made[f"{name}.bias"] * gain + shift
        return made

    def error(self, x_0: Tensor, noise: Tensor, t: int, text: Tensor) -> Tensor:
        """The weighted squared error of one sample."""
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alpha_bar = torch.cumprod(1 - betas, 0)[t]
        x_t = alpha_bar.sqrt() * x_0.double() + (1 - alpha_bar).sqrt() * noise.double()
        k = 1 + next(k for k, zone in enumerate(self.zones.zones) if zone.start <= t < zone.stop)
        options = {"encoder_hidden_states": text.double()[None]}
        guess = torch.func.functional_call(self.denoiser, self.weights(k), (x_t[None], t), options).sample[0]
        return (guess - noise.double()).square().mean() * min(1 / float(alpha_bar), 8.0)


@both
def test_loss_and_every_gains_gradient_equal_those_of_the_float64_twin(
    new_stage: MakeStage, small_base: Base, monkeypatch: pytest.MonkeyPatch, parts: Parts
) -> None:
    """The whole objective: photos and class pictures, each at its own timestep and from its own set, in one batch."""
    stage = shaken(new_stage(train_batch_size=3, class_batch_size=2, parts=parts))
    monkeypatch.setattr(stage, "log", lambda *_, **__: None)  # there is no trainer
    loss = stage.training_step(0)
    draw = generator_for(stage.recipe.seed, 0, "tune")
    x_0, text, is_prior = stage.batch(draw)
    noise = torch.randn(x_0.shape, generator=draw)
    t = stage.zones.draw(5, draw).tolist()
    assert len(set(stage.zones.index(torch.tensor(t)).tolist())) > 1
    twin = Twin(stage, type(small_base.denoiser).from_config(small_base.denoiser.config))
    errors = torch.stack([twin.error(x_0[i], noise[i], t[i], text.tokens[i]) for i in range(5)])
    expected = errors[is_prior == 0].mean() + 0.5 * errors[is_prior == 1].mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)
    slow = dict(zip(twin.sets, torch.autograd.grad(expected, list(twin.sets.values())), strict=True))
    found = gradients(stage, loss)
    assert found.keys() == slow.keys()
    for name, gradient in found.items():
        limit = 1e-4 * float(slow[name].abs().max())
        torch.testing.assert_close(gradient.double(), slow[name], rtol=1e-3, atol=limit)


@pytest.mark.parametrize("name", ["gain_in", "gain_out", "shift"])
def test_one_numbers_gradient_is_what_finite_differences_say(new_stage: MakeStage, name: str) -> None:
    stage, t = shaken(new_stage(parts=EVERYTHING)), [100, 400, 800]
    layer, holder = next(iter(quantized_layers(stage.denoiser)))
    gradient = gradients(stage, errors_of(stage, t).sum())[f"{layer}.{name}"][1]
    channel, values = int(gradient.abs().argmax()), []
    for step in (1e-2, -1e-2):
        with torch.no_grad():
            holder.get_parameter(name)[1, channel] += step
            values.append(float(errors_of(stage, t).double().sum()))
            holder.get_parameter(name)[1, channel] -= step
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(float(gradient[channel]), rel=0.02)


@both
def test_a_mixed_batch_equals_separate_calls(new_stage: MakeStage, parts: Parts) -> None:
    """Loss and gradients, the base (uncovered timesteps) among the sets."""
    stage = shaken(new_stage(Zones((Zone("a", 0, 200), Zone("b", 300, 700)), 1000), parts=parts))
    t = torch.tensor([100, 250, 500, 199, 900])
    x_0, noise, text = batch(5)
    together = errors_of(stage, t.tolist())
    parts_of_it = zip(x_0.split(1), noise.split(1), t.split(1), map(Conditioning, text.split(1)), strict=True)
    alone = torch.cat([denoising_error(stage.base, stage.schedule, *part) for part in parts_of_it])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    found, expected = gradients(stage, together.sum()), gradients(stage, alone.sum())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_uncovered_timesteps_are_the_base_bit_for_bit_whatever_learned(
    new_stage: MakeStage, quantized: Callable[[], Any]
) -> None:
    x_0, _, text = batch(4)
    t = torch.tensor([0, 199, 200, 999])
    stage = shaken(new_stage(CONTENT, parts=EVERYTHING))
    with torch.no_grad():
        one, other = (denoiser(x_0, t, encoder_hidden_states=text).sample for denoiser in (stage.denoiser, quantized()))
    assert [torch.equal(one[i], other[i]) for i in range(4)] == [True, True, False, True]


def test_recomputed_activations_change_no_bit(new_stage: MakeStage) -> None:
    found = []
    for recompute in (False, True):
        stage = shaken(new_stage(parts=EVERYTHING))
        if recompute:
            denoiser: Any = stage.denoiser.train()
            denoiser.enable_gradient_checkpointing()
            assert denoiser.is_gradient_checkpointing
        found.append(gradients(stage, errors_of(stage, [100, 400, 800]).sum()))
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())


@pytest.mark.parametrize(("t", "zone"), [([0, 150, 199], 0), ([200, 699], 1), ([700, 850, 999], 2)])
def test_a_batch_of_one_zone_moves_no_other_set(new_stage: MakeStage, t: list[int], zone: int) -> None:
    stage = new_stage(parts=EVERYTHING)
    for name, gradient in gradients(stage, errors_of(stage, t).sum()).items():
        assert gradient[zone].abs().max() > 0, name
        assert gradient[[k for k in range(3) if k != zone]].abs().max() == 0, name


@both
def test_uncovered_timesteps_teach_nothing(new_stage: MakeStage, parts: Parts) -> None:
    stage = new_stage(CONTENT, parts=parts)
    found = gradients(stage, errors_of(stage, [0, 199, 700, 999]).sum())
    assert all(gradient.abs().max() == 0 for gradient in found.values())


@both
def test_an_expert_feels_its_own_zones_samples_only(new_stage: MakeStage, parts: Parts) -> None:
    """The other samples of a mixed batch may be anything."""
    stage, found = shaken(new_stage(parts=parts)), []
    x_0, noise, text = batch(3)
    for other in (0.0, 5.0):
        x_0[[0, 2]], text[[0, 2]] = other, other
        errors = denoising_error(
            stage.base, stage.schedule, x_0, noise, torch.tensor([100, 400, 800]), Conditioning(text)
        )
        found.append(gradients(stage, errors.sum()))
    for name in found[0]:
        torch.testing.assert_close(found[0][name][1], found[1][name][1], rtol=1e-5, atol=1e-6)
        assert not torch.equal(found[0][name][0], found[1][name][0])
