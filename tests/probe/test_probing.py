"""Probes: a swap at either end is plain sampling, forecasts end in the picture, a text's worth against a slow twin."""

from typing import Any

import pytest
import torch

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.ddpm import DDPM_SCHEDULERS
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.diffusion.schedule import Schedule
from quantbooth.probe.probing import prompt_swap, text_gain, x0_predictions
from quantbooth_toyworld.models import SCHEDULE

FIRST, SECOND = ["a red mug", "a blue duck"], ["a green car at night", "a fish"]


def noise_of(base: Base) -> torch.Tensor:
    side = base.denoiser.config.sample_size
    return initial_noise(FIRST, [0, 1], (base.denoiser.config.in_channels, side, side))


@pytest.mark.parametrize("scheduler", DDPM_SCHEDULERS)
def test_a_swap_at_either_end_is_plain_sampling(base: Base, scheduler: str) -> None:
    sampler, noise = Sampler(scheduler, 4, 3.0), noise_of(base)
    alone = [sampler.sample(base, texts, noise) for texts in (FIRST, SECOND)]
    for switch, expected in ((0, alone[0]), (1000, alone[1])):
        got = prompt_swap(base, sampler, FIRST, SECOND, noise, torch.tensor([switch, switch]))
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-4)


def test_every_sample_has_a_swap_of_its_own(base: Base) -> None:
    sampler, noise = Sampler("ddim", 4, 3.0), noise_of(base)
    mixed = prompt_swap(base, sampler, FIRST, SECOND, noise, torch.tensor([400, 1000]))
    late = prompt_swap(base, sampler, FIRST[:1], SECOND[:1], noise[:1], torch.tensor([400]))
    never = prompt_swap(base, sampler, FIRST[1:], SECOND[1:], noise[1:], torch.tensor([1000]))
    torch.testing.assert_close(mixed, torch.cat([late, never]), rtol=0, atol=1e-5)


def test_the_first_sentence_conditions_down_to_the_swap_and_not_below(base: Base) -> None:
    """Step by step, by the sentences the denoiser is really given: t >= switch is the first's."""
    given: list[tuple[int, torch.Tensor]] = []

    def note(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.append((int(args[1]), kwargs["encoder_hidden_states"][2:].clone()))

    hook = base.denoiser.register_forward_pre_hook(note, with_kwargs=True)
    try:
        prompt_swap(base, Sampler("ddim", 10, 3.0), FIRST, SECOND, noise_of(base), torch.tensor([501, 301]))
    finally:
        hook.remove()
    before, after = base.encode_prompts(FIRST).tokens, base.encode_prompts(SECOND).tokens
    assert [t for t, _ in given] == list(range(901, 0, -100))
    for t, text in given:
        assert torch.equal(text[0], before[0] if t >= 501 else after[0]), t
        assert torch.equal(text[1], before[1] if t >= 301 else after[1]), t


@pytest.mark.parametrize("scheduler", DDPM_SCHEDULERS)
def test_forecasts_draw_near_the_finished_picture(base: Base, scheduler: str) -> None:
    """With every scheduler the forecast at the last, least noisy step is nearly the picture itself."""
    sampler, noise = Sampler(scheduler, 12, 1.0), noise_of(base)
    timesteps, pictures, finished = x0_predictions(base, sampler, FIRST, noise)
    whole = sampler.sample(base, FIRST, noise)
    torch.testing.assert_close(base.decode_latents(finished), whole, rtol=0, atol=1e-5)
    distance = (pictures - whole).square().mean(dim=(1, 2, 3, 4)).sqrt()
    assert float(distance[-1]) < 0.1 * float(distance[0])
    assert (timesteps.diff() <= 0).all()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_origin_undoes_noising(prediction: str) -> None:
    schedule = Schedule({**SCHEDULE, "prediction_type": prediction})
    g = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 3, 4, 4, generator=g), torch.randn(2, 3, 4, 4, generator=g)
    for t in (0, 250, 900):
        steps = torch.tensor([t, t])
        x_t, target = schedule.add_noise(x_0, noise, steps), schedule.target(x_0, noise, steps)
        torch.testing.assert_close(schedule.origin(x_t, target, torch.tensor(float(t))), x_0, rtol=1e-3, atol=1e-3)


def test_the_worth_of_the_text_against_a_loop(base: Base) -> None:
    noise, t = noise_of(base), torch.tensor([100, 800])
    x_0 = torch.randn(noise.shape, generator=torch.Generator().manual_seed(1))
    told, untold = text_gain(base, x_0, FIRST, noise, t)
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    for row in range(2):
        a = float(alpha_bar[t[row]])
        x_t = a**0.5 * x_0[row : row + 1] + (1 - a) ** 0.5 * noise[row : row + 1]
        for text, got in ((FIRST[row], told), ("", untold)):
            with torch.no_grad():
                guess = base.denoiser(x_t, t[row], encoder_hidden_states=base.encode_prompts([text]).tokens).sample
            assert float(got[row]) == pytest.approx(float((guess - noise[row : row + 1]).square().mean()), rel=1e-4)
