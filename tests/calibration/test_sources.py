"""Sources: the sampler's states are those of a plain loop, noise is by place, pictures are noised by the formula."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from quantbooth.calibration.sources import SOURCES, PromptBatch, batches, kept_steps, source_of
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.ddpm import DDPM_SCHEDULERS
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.runtime.errors import UserError

SAMPLER = Sampler("ddim", 5, 3.0)
TEXTS, SEEDS = ("a photo of red mug", "a duck on the beach", "a photo of duck"), (3, 4, 5)


@pytest.fixture
def asked(generator: torch.Generator) -> PromptBatch:
    return PromptBatch(TEXTS, SEEDS, torch.rand(3, 3, 32, 32, generator=generator))


def test_the_samplers_states_are_those_of_a_plain_loop(base: Base, asked: PromptBatch) -> None:
    found = source_of("sampler", SAMPLER).states(base, asked, 3)
    scheduler = DDIMScheduler.from_config(base.scheduler_config)
    scheduler.set_timesteps(5)
    met: list[Tensor] = []
    shape = base.latent_shape
    with torch.no_grad():
        x, text, empty = (
            initial_noise(TEXTS[1:2], SEEDS[1:2], shape),
            base.encode_prompts([TEXTS[1]]).tokens,
            base.encode_prompts([""]).tokens,
        )
        for t in scheduler.timesteps:
            met.append(x)
            own, none = (base.denoiser(x, t, encoder_hidden_states=c).sample for c in (text, empty))
            x = scheduler.step(none + 3.0 * (own - none), t, x).prev_sample
    expected = torch.stack([met[place][0] for place in (0, 2, 4)])
    torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=1e-4)
    assert source_of("sampler", SAMPLER).timesteps(base, 3).tolist() == scheduler.timesteps[[0, 2, 4]].tolist()


@pytest.mark.parametrize("scheduler", DDPM_SCHEDULERS)
def test_the_state_at_a_kept_timestep_is_what_the_denoiser_sees_there(base: Base, scheduler: str) -> None:
    source, one = source_of("sampler", Sampler(scheduler, 4, 2.0)), PromptBatch(TEXTS[:1], SEEDS[:1])
    seen: list[tuple[float, Tensor]] = []

    def note(_denoiser: object, args: tuple[Tensor, Tensor]) -> None:
        seen.append((float(args[1]), args[0][:1].clone()))

    hook = base.denoiser.register_forward_pre_hook(note)
    try:
        found = source.states(base, one, 2)
    finally:
        hook.remove()
    indices = kept_steps(len(seen), 2)
    assert source.timesteps(base, 2).tolist() == [seen[place][0] for place in indices]
    assert torch.equal(found, torch.stack([seen[place][1] for place in indices], dim=1))


def test_forward_states_are_pictures_noised_as_in_training(base: Base, asked: PromptBatch) -> None:
    source = source_of("forward", SAMPLER)
    found, times = source.states(base, asked, 2), source.timesteps(base, 2).long().tolist()
    assert asked.pictures is not None
    latents = base.encode_images(asked.pictures)
    a = DDIMScheduler.from_config(base.scheduler_config).alphas_cumprod
    for place, t in enumerate(times):
        noise = (found[:, place] - a[t].sqrt() * latents) / (1 - a[t]).sqrt()
        torch.testing.assert_close(noise, asked.noise(base, f"{t} "), rtol=1e-3, atol=1e-3)
    assert not torch.equal(asked.noise(base, f"{times[0]} "), asked.noise(base, f"{times[1]} "))


def test_fractional_timesteps_are_rounded_where_pictures_are_noised(base: Base, asked: PromptBatch) -> None:
    config = {**base.scheduler_config, "timestep_spacing": "linspace"}
    source = source_of("forward", Sampler("euler", 5, 3.0))
    one = replace(base, scheduler_config=config)
    times = source.timesteps(one, 5).tolist()
    assert times == [999.0, 749.25, 499.5, 249.75, 0.0]
    found = source.states(one, asked, 5)
    assert asked.pictures is not None
    latents = base.encode_images(asked.pictures)
    noise = asked.noise(base, "250 ")
    expected = base.schedule.add_noise(latents, noise, torch.full((3,), 250))
    torch.testing.assert_close(found[:, 3], expected)


def test_normal_states_are_noise_alone(base: Base, asked: PromptBatch) -> None:
    found = source_of("normal", SAMPLER).states(base, asked, 4)
    assert found.std() == pytest.approx(1, abs=0.05)
    assert found.flatten(2).mean(2).abs().max() < 0.2
    assert len({tuple(row[:3].tolist()) for row in found.flatten(0, 1).flatten(1)}) == 12


@pytest.mark.parametrize("name", SOURCES)
def test_states_depend_on_their_own_sentence_and_seed_alone(base: Base, asked: PromptBatch, name: str) -> None:
    source = source_of(name, SAMPLER)
    whole = source.states(base, asked, 2)
    again = source.states(base, asked, 2)
    assert torch.equal(whole, again)
    parts = [source.states(base, part, 2) for part in batches(asked, 2)]
    assert [len(part) for part in parts] == [2, 1]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-4)
    other = source.states(base, PromptBatch(TEXTS, (3, 4, 6), asked.pictures), 2)
    torch.testing.assert_close(other[:2], whole[:2], rtol=1e-4, atol=1e-4)
    assert (other[2] - whole[2]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("steps", "count", "indices"),
    [(5, 5, [0, 1, 2, 3, 4]), (25, 3, [0, 12, 24]), (10, 2, [0, 9]), (5, 1, [2]), (1, 1, [0])],
)
def test_kept_steps_are_evenly_spaced_from_first_to_last(steps: int, count: int, indices: list[int]) -> None:
    assert kept_steps(steps, count) == indices


@pytest.mark.parametrize("count", [0, 6])
def test_more_timesteps_than_steps_are_refused(count: int) -> None:
    found = rf"calibration.set.timesteps must be in \[1, 5\] with sampler.steps=5, got {count}"
    with pytest.raises(UserError, match=found):
        kept_steps(5, count)


def test_other_refusals(base: Base, asked: PromptBatch) -> None:
    with pytest.raises(UserError, match="noises true pictures.*choose sampler or normal"):
        source_of("forward", SAMPLER).states(base, PromptBatch(TEXTS, SEEDS), 2)
