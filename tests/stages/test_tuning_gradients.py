"""Tuning's loss and gradients: those of a float64 twin, and each set's from samples of its own zone only."""

from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from quantbooth.data.draws import generator_for
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.losses import denoising_error
from quantbooth.quant import scale_sets
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.packing import unpack
from quantbooth.stages.tuning import TuningStage
from quantbooth.timesteps.zones import Zone, Zones

MakeStage = Callable[..., TuningStage]
CONTENT = Zones((Zone("content", 200, 700),), 1000)


def shaken(stage: TuningStage) -> TuningStage:
    """The same stage, its gains no longer 1."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for gain in stage.learning:
            gain.mul_(1 + 0.3 * torch.randn(gain.shape, generator=draw))
    return stage


def batch(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random latents, noise and texts."""
    draw = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, count, 24, 8, 8, generator=draw).unbind()
    return x_0, noise, torch.randn(count, 26, 128, generator=draw)


def errors_of(stage: TuningStage, t: list[int]) -> Tensor:
    """Per-sample errors of a random batch at these timesteps."""
    x_0, noise, text = batch(len(t))
    return denoising_error(stage.unet, stage.schedule, x_0, noise, torch.tensor(t), text)


def gradients(stage: TuningStage, loss: Tensor) -> dict[str, Tensor]:
    names = list(scale_sets.gains(stage.unet))
    return dict(zip(names, torch.autograd.grad(loss, stage.learning), strict=True))


class Twin:
    """The slow way in float64: a plain unet whose weights are (q - z) * s0 * gain, one set and one sample at a time."""

    def __init__(self, stage: TuningStage, float_unet: Any) -> None:
        self.unet, self.zones = float_unet.double(), stage.zones
        self.layers = dict(quantized_layers(stage.unet))
        self.gains = {name: gain.double().requires_grad_() for name, gain in scale_sets.gains(stage.unet).items()}
        self.others = {name: tensor.double() for name, tensor in stage.unet.state_dict().items()}

    def weights(self, k: int) -> dict[str, Tensor]:
        """All parameters as set k has them."""
        made = {name: self.others[name] for name, _ in self.unet.named_parameters() if name in self.others}
        for name, layer in self.layers.items():
            q = unpack(layer.codes, layer.bits, prod(layer.shape[1:])).double() - layer.zero[:, None]
            scale = layer.scale.double() * self.gains[name][k - 1]
            made[f"{name}.weight"] = (q * scale[:, None]).view(layer.shape)
        return made

    def error(self, x_0: Tensor, noise: Tensor, t: int, text: Tensor) -> Tensor:
        """The weighted squared error of one sample."""
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alpha_bar = torch.cumprod(1 - betas, 0)[t]
        x_t = alpha_bar.sqrt() * x_0.double() + (1 - alpha_bar).sqrt() * noise.double()
        k = 1 + next(k for k, zone in enumerate(self.zones.zones) if zone.start <= t < zone.stop)
        options = {"encoder_hidden_states": text.double()[None]}
        guess = torch.func.functional_call(self.unet, self.weights(k), (x_t[None], t), options).sample[0]
        return (guess - noise.double()).square().mean() * min(1 / float(alpha_bar), 8.0)


def test_loss_and_every_gains_gradient_equal_those_of_the_float64_twin(
    new_stage: MakeStage, small_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole objective: photos and class pictures, each at its own timestep and from its own set, in one batch."""
    stage = shaken(new_stage(subject_batch=3, prior_batch=2))
    monkeypatch.setattr(stage, "log", lambda *_, **__: None)  # there is no trainer
    loss = stage.training_step(0)
    draw = generator_for(stage.recipe.seed, 0, "tune")
    x_0, text, is_prior = stage.batch(draw)
    noise = torch.randn(x_0.shape, generator=draw)
    t = stage.zones.draw(5, draw).tolist()
    assert len(set(stage.zones.index(torch.tensor(t)).tolist())) > 1
    twin = Twin(stage, type(small_base.unet).from_config(small_base.unet.config))
    errors = torch.stack([twin.error(x_0[i], noise[i], t[i], text[i]) for i in range(5)])
    expected = errors[is_prior == 0].mean() + 0.5 * errors[is_prior == 1].mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)
    slow = dict(zip(twin.gains, torch.autograd.grad(expected, list(twin.gains.values())), strict=True))
    for name, gradient in gradients(stage, loss).items():
        limit = 1e-4 * float(slow[name].abs().max())
        torch.testing.assert_close(gradient.double(), slow[name], rtol=1e-3, atol=limit)


def test_one_gains_gradient_is_what_finite_differences_say(new_stage: MakeStage) -> None:
    stage, t = shaken(new_stage()), [100, 400, 800]
    name, layer = next(iter(quantized_layers(stage.unet)))
    gradient = gradients(stage, errors_of(stage, t).sum())[name][1]
    channel, values = int(gradient.abs().argmax()), []
    assert layer.gain is not None
    for step in (1e-2, -1e-2):
        with torch.no_grad():
            layer.gain[1, channel] += step
            values.append(float(errors_of(stage, t).double().sum()))
            layer.gain[1, channel] -= step
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(float(gradient[channel]), rel=0.02)


def test_a_mixed_batch_equals_separate_calls(new_stage: MakeStage) -> None:
    """Loss and gradients, the base (uncovered timesteps) among the sets."""
    stage = shaken(new_stage(Zones((Zone("a", 0, 200), Zone("b", 300, 700)), 1000)))
    t = torch.tensor([100, 250, 500, 199, 900])
    x_0, noise, text = batch(5)
    together = errors_of(stage, t.tolist())
    parts = zip(x_0.split(1), noise.split(1), t.split(1), text.split(1), strict=True)
    alone = torch.cat([denoising_error(stage.unet, stage.schedule, *part) for part in parts])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    found, expected = gradients(stage, together.sum()), gradients(stage, alone.sum())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("t", "zone"), [([0, 150, 199], 0), ([200, 699], 1), ([700, 850, 999], 2)])
def test_a_batch_of_one_zone_moves_no_other_set(new_stage: MakeStage, t: list[int], zone: int) -> None:
    stage = new_stage()
    for name, gradient in gradients(stage, errors_of(stage, t).sum()).items():
        assert gradient[zone].abs().max() > 0, name
        assert gradient[[k for k in range(3) if k != zone]].abs().max() == 0, name


def test_uncovered_timesteps_teach_nothing(new_stage: MakeStage) -> None:
    stage = new_stage(CONTENT)
    found = gradients(stage, errors_of(stage, [0, 199, 700, 999]).sum())
    assert all(gradient.abs().max() == 0 for gradient in found.values())


def test_an_expert_feels_its_own_zones_samples_only(new_stage: MakeStage) -> None:
    """The other samples of a mixed batch may be anything."""
    stage, found = shaken(new_stage()), []
    x_0, noise, text = batch(3)
    for other in (0.0, 5.0):
        x_0[[0, 2]], text[[0, 2]] = other, other
        errors = denoising_error(stage.unet, stage.schedule, x_0, noise, torch.tensor([100, 400, 800]), text)
        found.append(gradients(stage, errors.sum()))
    for name in found[0]:
        torch.testing.assert_close(found[0][name][1], found[1][name][1], rtol=1e-5, atol=1e-8)
        assert not torch.equal(found[0][name][0], found[1][name][0])
