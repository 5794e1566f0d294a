"""Training timesteps of a flow: their density by the shift of its sampler, and the base's own shift."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from experiments.random_base import random_base
from quantbooth.diffusion.log_snr import log_snr
from quantbooth.diffusion.pretrained import save_base
from quantbooth.diffusion.shifted import Shifted, shifted
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.zones import equal_zones, zones_from_borders
from quantbooth_toyworld.shipped import base_folder

ALL = equal_zones(1, 1000)
COARSE = zones_from_borders({"low": [0, 909], "coarse": [909, 1000]}, 1000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sd3")
    save_base(random_base("tiny-sd3"), made, torch.float32)
    return made


@pytest.mark.parametrize("s", [0.5, 1.0, 3.0])
def test_it_is_the_density_of_shifted_uniform_numbers(s: float) -> None:
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = s * u / (1 + (s - 1) * u)
    counts = torch.bincount((sigma * 1000).long().clamp(max=999), minlength=1000).double() / len(u)
    found = Shifted(s, "reject").density(ALL)
    assert float((counts.cumsum(0) - found.cumsum(0)).abs().max()) < 1.63 / math.sqrt(len(u))  # Kolmogorov, 1 %
    assert found.sum() == pytest.approx(1)


def test_what_is_trained_in_a_zone_is_what_the_sampler_serves_there() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(1000)
    served = float((scheduler.timesteps - 1 >= 909).double().mean())
    trained = float(Shifted(3.0, "reject").density(ALL)[909:].sum())
    assert trained == pytest.approx(served, abs=0.002)
    assert trained > 2 * float(Shifted(1.0, "reject").density(ALL)[909:].sum())
    assert float(Shifted(3.0, "reject").density(COARSE)[909:].sum()) == pytest.approx(trained)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 3.0),
        ({"use_dynamic_shifting": True, "base_image_seq_len": 16, "base_shift": 0.7}, math.exp(0.7)),
        (
            {"use_dynamic_shifting": True, "base_image_seq_len": 16, "base_shift": 0.7, "time_shift_type": "linear"},
            0.7,
        ),
    ],
    ids=str,
)
def test_by_default_it_is_the_shift_of_the_base(folder: Path, change: dict[str, Any], expected: float) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), **change}))
    try:
        assert shifted(folder, 25, None, "reject").shift == pytest.approx(expected)
        assert shifted(folder, 25, 2.0, "rescale") == Shifted(2.0, "rescale")
    finally:
        file.write_text(before)


def test_a_base_without_flow_is_refused_unless_a_shift_is_given() -> None:
    with pytest.raises(UserError, match="^timesteps=shifted takes the shift of a flow-matching base"):
        shifted(base_folder(), 25, None, "reject")
    assert shifted(base_folder(), 25, 3.0, "reject").describe() == {"name": "shifted", "shift": 3.0, "within": "reject"}


def test_log_snr_of_a_flow_has_a_density_at_noise_alone(folder: Path) -> None:
    density = log_snr(folder, 0.0, None, "reject").density(ALL)
    assert density.isfinite().all() and (density > 0).all()
    assert density[0] > density[1] > density[400] < density[998]
