"""Sampling against slow twins, and refusals."""

import pytest
import torch

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.ddpm import DDPM_SCHEDULERS
from quantbooth.diffusion.router import route_
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.quant.selection import SetSelection
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.zones import zones_from_borders

TEXTS = ["a red mug", "a duck", "a photo of sks mug"]


def noise_for(base: Base, texts: list[str], seeds: list[int]) -> torch.Tensor:
    return initial_noise(texts, seeds, base.latent_shape)


def test_noise_depends_on_its_own_prompt_and_seed_only() -> None:
    together = initial_noise(TEXTS, [0, 1, 2], (4, 8, 8))
    alone = [initial_noise([text], [seed], (4, 8, 8))[0] for seed, text in enumerate(TEXTS)]
    assert torch.equal(together, torch.stack(alone))
    assert not torch.equal(together[0], initial_noise([TEXTS[0]], [1], (4, 8, 8))[0])


def test_same_seeds_same_pictures_bit_for_bit(base: Base) -> None:
    noise = noise_for(base, TEXTS, [0, 0, 0])
    pictures = [Sampler("ddim", 4, 4.0).sample(base, TEXTS, noise) for _ in range(2)]
    assert torch.equal(*pictures)


def test_a_batch_equals_its_pictures_made_alone(base: Base) -> None:
    noise = noise_for(base, TEXTS, [0, 1, 2])
    sampler = Sampler("ddim", 4, 4.0)
    together = sampler.sample(base, TEXTS, noise)
    alone = [sampler.sample(base, TEXTS[i : i + 1], noise[i : i + 1])[0] for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scheduler", DDPM_SCHEDULERS)
@pytest.mark.parametrize("steps", [7, 25, 50])
def test_every_scheduler_is_routed_as_a_brute_force_table_says(base: Base, scheduler: str, steps: int) -> None:
    """Each timestep goes to the zone a plain loop puts it in, for both halves of the guidance batch."""
    borders = {"clean_up": [0, 200], "content": [200, 700], "coarse": [700, 1000]}
    zones, selection = zones_from_borders(borders, 1000), SetSelection()

    class Recorder(torch.nn.Module):
        def forward(self, sample: torch.Tensor, timestep: object, **_: object) -> None:
            seen.append((float(torch.as_tensor(timestep)), selection.choice.tolist()))

    seen: list[tuple[float, list[int]]] = []
    recorder = Recorder()
    route_(base.with_denoiser(recorder), zones.index, selection)
    for t in Sampler(scheduler, steps, 4.0).new_scheduler(base).timesteps:
        recorder(torch.zeros(4, 1, 1, 1), t, encoder_hidden_states=None)
    names = list(borders.values())
    for t, index in seen:
        expected = 1 + next(k for k, (start, stop) in enumerate(names) if start <= t < stop)
        assert index == [expected] * 4
    assert {index[0] for _, index in seen} == {1, 2, 3}


def test_the_router_takes_the_timestep_by_position_by_keyword_and_per_sample(base: Base) -> None:
    zones, selection = zones_from_borders({"low": [0, 500], "high": [500, 1000]}, 1000), SetSelection()

    class Net(torch.nn.Module):
        def forward(self, sample: torch.Tensor, timestep: object) -> torch.Tensor:
            return sample

    net = Net()
    handle = route_(base.with_denoiser(net), zones.index, selection)
    x = torch.zeros(2, 1)
    net(x, 499)
    assert selection.choice.tolist() == [1, 1]
    net(sample=x, timestep=torch.tensor(500))
    assert selection.choice.tolist() == [2, 2]
    net(x, torch.tensor([0, 999]))
    assert selection.choice.tolist() == [1, 2]
    net(x, timestep=499.5)
    assert selection.choice.tolist() == [1, 1]
    handle.remove()


def test_a_scheduler_of_no_family_is_refused() -> None:
    with pytest.raises(UserError, match="must be one of ddim, dpm, euler, pndm, flow_euler, got 'heun'"):
        Sampler("heun", 25, 4.0)


@pytest.mark.parametrize("scheduler", DDPM_SCHEDULERS)
def test_under_autocast_guidance_steps_and_pictures_stay_in_float32(base: Base, scheduler: str) -> None:
    sampler, noise = Sampler(scheduler, 3, 2.0), initial_noise(["a mug"], [0], base.latent_shape)
    seen: list[torch.dtype] = []
    conditioning = base.encode_prompts(["a mug"])
    with torch.autocast("cpu", torch.bfloat16):
        watch = lambda _t, x_t, predicted: seen.extend([x_t.dtype, predicted.dtype])  # noqa: E731
        latents = sampler.denoise(base, lambda _t: conditioning, noise, watch)
        pictures = base.decode_latents(latents)
    assert {latents.dtype, *seen} == {torch.float32}
    assert torch.equal(pictures, base.decode_latents(latents))


def test_without_guidance_there_is_no_unconditional_prediction(base: Base) -> None:
    noise, rows = initial_noise(["a", "b"], [0, 1], base.latent_shape), list[int]()
    handle = base.denoiser.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    found = [Sampler("ddim", 2, guidance).sample(base, ["a", "b"], noise) for guidance in (1.0, 1.0 + 1e-6)]
    handle.remove()
    assert rows == [2, 2, 4, 4]
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)
