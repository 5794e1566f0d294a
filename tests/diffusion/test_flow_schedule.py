"""The flow schedule against float64 twins and diffusers' own training code, its sampler, and refusals."""

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from quantbooth.diffusion.flow_schedule import FlowEuler, FlowSchedule, sigma_of, timestep_of
from quantbooth.runtime.errors import UserError

T = 1000
CONFIG = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": T, "shift": 3.0}


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    one, other = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).unbind()
    return one, other


def test_noising_is_that_of_diffusers() -> None:
    x_0, noise = pair()
    t = torch.tensor([0, 499, 999])
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=T)
    expected = scheduler.scale_noise(x_0, t.float() + 1, noise)
    torch.testing.assert_close(FlowSchedule(CONFIG).add_noise(x_0, noise, t), expected, rtol=0, atol=1e-6)
    assert torch.equal(FlowSchedule(CONFIG).add_noise(x_0, noise, torch.full((3,), T - 1)), noise)


@pytest.mark.parametrize("t", [0, 3, 500, 999])
def test_the_target_leads_from_any_x_t_back_to_the_picture(t: int) -> None:
    schedule = FlowSchedule(CONFIG)
    x_0, noise = pair(t)
    x_t = schedule.add_noise(x_0, noise, torch.full((3,), t))
    found = schedule.origin(x_t, schedule.target(x_0, noise, torch.full((3,), t)), torch.tensor(float(t)))
    torch.testing.assert_close(found, x_0, rtol=0, atol=1e-6)
    sigma = (t + 1) / T
    torch.testing.assert_close(x_t, (1 - sigma) * x_0 + sigma * noise, rtol=0, atol=1e-6)


def test_signal_to_noise_is_that_of_the_straight_path() -> None:
    schedule = FlowSchedule(CONFIG)
    sigma = torch.arange(1, T + 1, dtype=torch.float64) / T
    torch.testing.assert_close(schedule.snr().double(), ((1 - sigma) / sigma) ** 2, rtol=1e-3, atol=1e-7)
    assert (schedule.snr().diff() < 0).all()
    assert [schedule.first_timestep_below(snr) for snr in (1.0, 0.1, 0.01, 0.0)] == [500, 759, 909, T]
    weight = schedule.bounded_inverse_weight(torch.tensor([0, 499, 999]), 8.0)
    torch.testing.assert_close(weight, torch.tensor([1 / 0.999**2, 4.0, 8.0]))


def test_timesteps_come_back_exactly() -> None:
    t = torch.arange(T)
    assert torch.equal(timestep_of(sigma_of(t, T) * T).round(), t.float())
    assert torch.equal(timestep_of(t.float() + 1), t.float())
    assert timestep_of(torch.tensor(0.25)) == 0


@pytest.mark.parametrize("options", [{}, {"sigmas": [1.0, 0.6, 0.2]}])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_steps_are_those_of_diffusers(shift: float, options: dict[str, Any]) -> None:
    ours, theirs = FlowEuler({**CONFIG, "shift": shift}, 3, options), FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(3, **options)
    assert torch.equal(ours.timesteps + 1, theirs.timesteps)
    x, y = (one.float() for one in (pair()[0], pair()[0]))
    for t, network_time in zip(ours.timesteps, theirs.timesteps, strict=True):
        x = ours.step(torch.tanh(ours.scale_model_input(x, t)), t, x).prev_sample
        y = theirs.step(torch.tanh(y), network_time, y).prev_sample
    assert torch.equal(x, y)


def test_a_straight_path_is_walked_exactly_in_any_number_of_steps() -> None:
    x_0, noise = pair()
    for steps in (1, 2, 7):
        scheduler, x = FlowEuler(CONFIG, steps), noise
        for t in scheduler.timesteps:
            x = scheduler.step(noise - x_0, t, x).prev_sample
        torch.testing.assert_close(x, x_0, rtol=0, atol=1e-5)


def test_a_step_at_another_timestep_is_a_mistake_of_the_caller() -> None:
    scheduler = FlowEuler(CONFIG, 3)
    with pytest.raises(ValueError, match="^step 0 must be at t = 999, got 500$"):
        scheduler.step(torch.zeros(1), torch.tensor(500.0), torch.zeros(1))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"_class_name": "DDIMScheduler"}, 'must be "FlowMatchEulerDiscreteScheduler" to be supported, found "DDIM'),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, "found .FlowMatchHeunDiscreteScheduler"),
        ({"stochastic_sampling": True}, "stochastic_sampling must be false or null to be supported, found true"),
        ({"invert_sigmas": True}, "invert_sigmas must be false or null to be supported, found true"),
        ({"beta_start": 0.1}, 'says "beta_start" = 0.1, which FlowMatchEulerDiscreteScheduler does not have'),
        ({"num_train_timesteps": 1}, "num_train_timesteps must be 2 to 100000, found 1"),
        ({"num_train_timesteps": None}, "num_train_timesteps must be 2 to 100000, found null"),
        ({"shift": 0}, "shift must be a number above 0, found 0"),
        ({"shift": "3"}, 'shift must be a number above 0, found "3"'),
        ({"time_shift_type": "cubic"}, 'time_shift_type must be "exponential" or "linear" to be supported'),
    ],
    ids=str,
)
def test_other_configurations_are_refused_by_key_and_value(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        FlowSchedule({**CONFIG, **change})


def test_options_that_diffusers_refuses_are_named() -> None:
    with pytest.raises(UserError, match="^sampler.scheduler=flow_euler cannot be made of .*`mu` must be passed"):
        FlowEuler({**CONFIG, "use_dynamic_shifting": True}, 3)
