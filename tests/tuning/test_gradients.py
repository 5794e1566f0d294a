"""Gradients of timestep bins against a slow twin, their file, and refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.objective import denoising_error, spread_timesteps
from quantbooth.diffusion.router import route_
from quantbooth.quant.selection import SetSelection
from quantbooth.runtime.draws import generator_for
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.lightning import Loop
from quantbooth.timesteps.zones import Zones, equal_zones
from quantbooth.tuning.gradients import FILE, Gradients, measure_gradients, read_gradients, write_gradients
from quantbooth.tuning.recipe import Examples
from quantbooth.tuning.tuner import Tuner
from quantbooth.tuning.tuners import LoraTuner, ScaleTuner

Measure = Callable[..., Gradients]
BINS = equal_zones(3, 1000)
TUNERS: dict[str, Tuner] = {
    "scales": ScaleTuner(),
    "scales_in_out": ScaleTuner(inputs=True),
    "shifts": ScaleTuner(biases=True, norms=True),
    "qlora": LoraTuner(rank=2, quantized=True),
}


@pytest.fixture
def tunable(small_base: Base, quantized: Callable[[], Any]) -> Callable[[str], Base]:
    """Makes the quantized base with one set of a tuner, used at all timesteps."""

    def make(tuner: str) -> Base:
        base, selection = small_base.with_denoiser(quantized()).denoiser_alone, SetSelection()
        TUNERS[tuner].prepare_(base, 1, selection)
        route_(base, equal_zones(1, 1000).index, selection)
        return base

    return make


@pytest.fixture
def measured(examples: Examples, loop: Loop) -> Measure:
    """Measures with three draws."""

    def make(base: Base, bins: Zones = BINS, seed: int = 0) -> Gradients:
        photos = examples.subject
        assert isinstance(photos, Tensor)
        return measure_gradients(base, photos[:2], examples.subject_text, bins, 3, seed, loop, "measuring")

    return make


def slow(base: Base, examples: Examples, bins: Zones) -> tuple[Tensor, list[float]]:
    """Return cosines and losses, with all draws of a bin in one batch: photos 0, 1, 0 with one noise each."""
    parameters = [one for one in base.denoiser.parameters() if one.requires_grad]
    noise = torch.cat([torch.randn(1, 24, 8, 8, generator=generator_for(0, j, "gradients")) for j in range(3)])
    x_0, directions, losses = examples.subject[torch.tensor([0, 1, 0])], [], []
    for zone in bins.zones:
        t = spread_timesteps(zone, 3, generator_for(0, 0, "timesteps of gradients"))
        loss = denoising_error(base, base.schedule, x_0, noise, t, examples.subject_text.expand(3)).mean()
        gradient = torch.cat([each.flatten() for each in torch.autograd.grad(loss, parameters)]).double()
        directions.append(gradient / gradient.norm())
        losses.append(loss.item())
    return torch.stack([torch.stack([one @ other for other in directions]) for one in directions]), losses


@pytest.mark.parametrize("tuner", TUNERS)
def test_affinities_are_cosines_of_gradients_of_the_mean_error(
    tunable: Callable[[str], Base], measured: Measure, examples: Examples, tuner: str
) -> None:
    base = tunable(tuner)
    found, (cosines, losses) = measured(base), slow(tunable(tuner), examples, BINS)
    torch.testing.assert_close(torch.tensor(found.affinity, dtype=torch.float64), cosines, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.tensor(found.losses), torch.tensor(losses))
    assert cosines.min() < 0.99
    assert all(one.grad is None for one in base.denoiser.parameters())


def test_the_seed_decides_and_nothing_else(tunable: Callable[[str], Base], measured: Measure) -> None:
    base, two = tunable("scales"), Zones(BINS.zones[:2], 1000)
    first = measured(base, two)
    torch.manual_seed(5)
    assert measured(base, two) == first
    assert measured(tunable("scales"), two) == first
    assert measured(base, two, seed=1) != first


def test_bins_of_the_same_timesteps_agree_wholly(tunable: Callable[[str], Base], measured: Measure) -> None:
    """A bin draws the same photo and noise as another, so only timesteps tell them apart."""
    base = tunable("scales")
    near = measured(base, Zones(equal_zones(1000, 1000).zones[500:502], 1000))
    assert near.affinity[0][1] > 0.99
    assert near.affinity[0][1] != pytest.approx(1.0, abs=1e-9)


def test_a_gradient_without_direction_is_refused(tunable: Callable[[str], Base], measured: Measure) -> None:
    base = tunable("scales")
    with torch.no_grad():
        base.denoiser.conv_out.weight.zero_()
    with pytest.raises(UserError, match=r"timesteps \[0, 334\) has length 0"):
        measured(base)


def test_a_file_holds_every_digit_of_what_was_measured(tmp_path: Path) -> None:
    made = Gradients([[1.0, 1 / 3], [1 / 3, 1.0]], [0.1, 2 / 7])
    write_gradients(tmp_path, made)
    assert read_gradients(tmp_path) == made


@pytest.mark.parametrize(
    "held",
    [
        {"affinity": [[1.0, 0.5], [0.5]], "losses": [1.0, 1.0]},
        {"affinity": [[1.0, 0.5]], "losses": [1.0, 1.0]},
        {"affinity": [[1.0]], "losses": [1.0, 1.0]},
        {"affinity": [], "losses": []},
        {"affinity": [["1"]], "losses": [1.0]},
        {"affinity": [[1.0]]},
    ],
    ids=str,
)
def test_a_file_of_something_else_is_refused_by_name(tmp_path: Path, held: dict[str, Any]) -> None:
    (tmp_path / FILE).write_text(json.dumps(held))
    with pytest.raises(UserError, match=f"{FILE}: (affinity|losses)"):
        read_gradients(tmp_path)
