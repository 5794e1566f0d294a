"""Errors by timestep bin against a slow twin, and the indicator."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.objective import denoising_error, spread_timesteps
from quantbooth.runtime.draws import generator_for
from quantbooth.runtime.lightning import Loop
from quantbooth.timesteps.zones import equal_zones
from quantbooth.tuning.overfitting import DRAWS, errors_by_bin, indicator
from quantbooth.tuning.recipe import Examples


@pytest.mark.usefixtures("all_bins")
@pytest.mark.parametrize("batch", [3, 4])
def test_errors_are_means_over_the_photos_in_turn(
    small_base: Base, quantized: Callable[[], Any], examples: Examples, loop: Loop, batch: int
) -> None:
    base, photos = small_base.with_denoiser(quantized()).denoiser_alone, examples.subject
    assert isinstance(photos, Tensor)
    found = errors_by_bin(base, photos, examples.subject_text, loop, batch, "measuring")
    assert found == errors_by_bin(base, photos, examples.subject_text, loop, batch, "measuring")
    assert len(found) == 10
    for zone, error in list(zip(equal_zones(10, 1000).zones, found, strict=True))[::4]:
        t = spread_timesteps(zone, DRAWS, generator_for(0, 0, "timesteps of overfitting"))
        errors = []
        for j in range(DRAWS):
            noise = torch.randn(1, 24, 8, 8, generator=generator_for(0, j, "overfitting"))
            with torch.no_grad():
                one = photos[j % 5][None]
                errors.append(denoising_error(base, base.schedule, one, noise, t[j][None], examples.subject_text))
        assert error == pytest.approx(float(torch.cat(errors).mean()), rel=1e-5)


def test_the_indicator_grows_from_none_as_the_error_falls() -> None:
    untuned = [0.5, 0.5, 0.5, 0.5]
    found = indicator(untuned, [0.6, 0.5, 0.25, 0.0])
    assert found == pytest.approx([0, 0, 1 - 2.718281828**-0.5, 1 - 1 / 2.718281828])
