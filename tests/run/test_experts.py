"""What each expert will see and do: timesteps of the sampler by zone, and shares of the samples."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.outline import outline
from quantbooth.diffusion.pretrained import load_base
from quantbooth.diffusion.sampler import Sampler
from quantbooth.run.experts import few_samples, not_drawn, sampled_timesteps, unused
from quantbooth.run.strength import Strength
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.samplers import Listed
from quantbooth.timesteps.strategies import Strategy, baseline, s1, s2, s2_from_s1, tas

SD = {"clean_up": [0, 354], "content": [354, 934], "coarse": [934, 1000]}
TOY = {"clean_up": [0, 200], "content": [200, 750], "coarse": [750, 1000]}


@pytest.fixture(scope="module")
def toy(base_folder: Path) -> Base:
    return outline(base_folder, "toy")


def with_scheduler(folder: Path, place: Path, **changes: Any) -> Base:
    """The outline of a base whose scheduler has another configuration."""
    shutil.copytree(folder, place)
    file = place / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return outline(place, "changed")


def test_an_outline_says_what_the_base_itself_says_and_has_no_weights(base_folder: Path, toy: Base) -> None:
    whole = load_base(base_folder, "toy")
    for one in (toy, whole):
        assert (one.side, one.timesteps, one.latent_shape) == (whole.side, whole.timesteps, whole.latent_shape)
    assert {str(numbers.device) for numbers in toy.denoiser.parameters()} == {"meta"}


@pytest.mark.parametrize("scheduler", ["ddim", "dpm", "euler", "pndm"])
@pytest.mark.parametrize("steps", [1, 2, 3, 25, 900])
def test_possible_steps_give_the_schedulers_own_timesteps(toy: Base, scheduler: str, steps: int) -> None:
    found = sampled_timesteps(toy, Sampler(scheduler, steps, 1.0))
    assert torch.equal(found, toy.new_scheduler(scheduler, steps).timesteps)
    assert len(found.unique()) == steps


@pytest.mark.parametrize("scheduler", ["ddim", "dpm", "euler", "pndm"])
def test_as_many_steps_as_timesteps_are_refused_where_an_offset_leaves_the_schedule(toy: Base, scheduler: str) -> None:
    with pytest.raises(UserError, match=rf"sampler\.scheduler={scheduler} .*choose (fewer steps|another number)"):
        sampled_timesteps(toy, Sampler(scheduler, 1000, 1.0))


def test_a_spacing_that_repeats_timesteps_is_refused(base_folder: Path, tmp_path: Path) -> None:
    spaced = with_scheduler(base_folder, tmp_path / "linspace", timestep_spacing="linspace")
    assert len(sampled_timesteps(spaced, Sampler("dpm", 999, 1.0))) == 999
    with pytest.raises(UserError, match="steps=1000 .*dpm.* 999 different ones"):
        sampled_timesteps(spaced, Sampler("dpm", 1000, 1.0))


def test_pndm_with_runge_kutta_steps_needs_its_least_number(base_folder: Path, tmp_path: Path) -> None:
    spaced = with_scheduler(base_folder, tmp_path / "prk", skip_prk_steps=False)
    with pytest.raises(UserError, match="sampler.scheduler=pndm "):
        sampled_timesteps(spaced, Sampler("pndm", 3, 1.0))


@pytest.mark.parametrize(
    ("strategy", "steps", "lacking"),
    [
        (s2(TOY, False, 1000), 25, []),
        (s2(TOY, False, 1000), 4, []),
        (s2(TOY, False, 1000), 3, ["coarse [750, 1000)"]),
        (s2(SD, True, 1000), 25, []),
        (s2(SD, True, 1000), 10, ["coarse [934, 1000)"]),
        (s1([900, 1000], "tuned", 1000), 5, []),
        (tas(4, 1000), 2, ["part2 [250, 500)", "part4 [750, 1000)"]),
        (baseline(1000), 1, []),
    ],
)
def test_an_expert_that_no_step_of_the_sampler_uses_is_named(
    toy: Base, strategy: Strategy, steps: int, lacking: list[str]
) -> None:
    lines = list(unused(strategy, sampled_timesteps(toy, Sampler("ddim", steps, 1.0))))
    assert len(lines) == len(lacking)
    assert all(
        zone in line and f"none of the {steps} timesteps" in line for zone, line in zip(lacking, lines, strict=True)
    )


@pytest.mark.parametrize(
    ("strategy", "steps"), [(s1([900, 1000], "base", 1000), 5), (s1([[603, 799], [810, 990]], "base", 1000), 5)]
)
def test_experts_of_which_the_sampler_uses_none_are_refused(toy: Base, strategy: Strategy, steps: int) -> None:
    """Their pictures would be those of the untuned base, under the name of a tuning."""
    timesteps = sampled_timesteps(toy, Sampler("ddim", steps, 1.0))
    for said in (unused(strategy, timesteps), not_drawn(strategy, Strength(1.0), timesteps)):
        with pytest.raises(UserError, match=r"none of the 5 timesteps .* is in selected.*untuned base alone"):
            list(said)


@pytest.mark.parametrize(
    ("strategy", "samples", "told"),
    [
        (s2(TOY, False, 1000), 3200, []),
        (s2(SD, False, 1000), 3200, [("coarse [934, 1000)", "211 of 3200")]),
        (s2(SD, True, 1000), 3200, []),
        (
            s2({"a": [0, 500], "b": [500, 1000]}, False, 1000),
            1,
            [("a [0, 500)", "0.5 of 1"), ("b [500, 1000)", "0.5 of 1")],
        ),
        (s1([900, 1000], "base", 1000), 3200, []),
        (tas(3, 1000), 2, [("part1", "0.668 of 2"), ("part2", "0.666 of 2"), ("part3", "0.666 of 2")]),
    ],
)
def test_an_expert_that_will_see_few_samples_is_named_with_their_number(
    strategy: Strategy, samples: int, told: list[tuple[str, str]]
) -> None:
    lines = list(few_samples(strategy, samples, 100))
    assert len(lines) == len(told)
    for (zone, number), line in zip(told, lines, strict=True):
        assert zone in line and number in line
        assert ("tuner.steps" in line) == (samples < strategy.sets)


def test_samples_of_shared_steps_are_those_of_every_expert() -> None:
    assert list(few_samples(s2_from_s1(SD, 50, 100, 1000), 3200, 100)) == []
    (line,) = few_samples(s2_from_s1(SD, 10, 100, 1000), 3200, 100)
    assert "coarse [934, 1000)" in line and "510 of 3200" in line and "even share is 1280" in line
    assert "strategy.shared_steps" in line
    (line,) = few_samples(s2_from_s1(SD, 100, 100, 1000), 3200, 100)
    assert "strategy.shared_steps=100 is all of tuner.steps" in line


def test_an_expert_whose_timesteps_have_no_weight_is_refused() -> None:
    """Its set would stay the base in any number of steps."""
    early = Listed(tuple(float(t < 300) for t in range(1000)), "reject")
    with pytest.raises(UserError, match=r"^timesteps has no weight in content \[354, 934\), so its expert"):
        list(few_samples(s2(SD, False, 1000), 3200, 100, early))


@pytest.mark.parametrize(
    ("share", "named"),
    [
        (1.0, []),
        ({"100-110": 0}, ["100-110"]),
        ({"700-800": 0}, ["700-800"]),  # the base is used there
        ({"0-5": 2, "100-110": 0, "700-800": 2, "elsewhere": 0.5}, ["100-110", "700-800"]),
        ({"100-110": 0.5, "elsewhere": 0.5}, []),
    ],
)
def test_an_interval_of_strength_without_a_step_of_the_sampler_is_named(
    share: float | dict[str, float], named: list[str]
) -> None:
    lines = list(not_drawn(s1([0, 500], "base", 1000), Strength(share), torch.tensor([999.0, 750.5, 0.0])))
    assert len(lines) == len(named)
    assert all(f"{each} of strength" in line for each, line in zip(named, lines, strict=True))


@pytest.mark.parametrize("share", [{"700-1000": 0.5, "elsewhere": 0}, {"0-1000": 0}, {"100-110": 1, "elsewhere": 0}])
def test_a_strength_that_leaves_the_untuned_base_everywhere_is_refused(share: dict[str, float]) -> None:
    """Its pictures would be those of the untuned base, under the name of a tuning."""
    with pytest.raises(UserError, match="^strength leaves the untuned base at each of the 3 timesteps .*strength=0$"):
        list(not_drawn(s1([0, 500], "base", 1000), Strength(share), torch.tensor([999.0, 750.5, 0.0])))
