"""The noise schedule against slow twins, and refusals."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from quantbooth.diffusion.borders import borders_by_snr
from quantbooth.diffusion.schedule import Schedule
from quantbooth.runtime.config import conf_dir
from quantbooth.runtime.errors import UserError
from quantbooth_toyworld.models import SCHEDULE


def slow_alpha_bar() -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def test_alpha_bar_equals_its_float64_twin() -> None:
    torch.testing.assert_close(Schedule(SCHEDULE).alpha_bar.double(), slow_alpha_bar(), rtol=1e-4, atol=1e-6)


def test_stable_diffusion_borders_are_the_published_ones() -> None:
    schedule = Schedule(SCHEDULE)
    assert [schedule.first_timestep_below(snr) for snr in (1.0, 0.1, 0.01)] == [354, 687, 934]
    assert schedule.first_timestep_below(0.0) == 1000


def test_noising_is_the_ddpm_formula() -> None:
    x_0, noise = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    t = torch.tensor([10, 900])
    a = slow_alpha_bar()[t].view(2, 1, 1, 1)
    expected = a.sqrt() * x_0 + (1 - a).sqrt() * noise
    torch.testing.assert_close(Schedule(SCHEDULE).add_noise(x_0, noise, t).double(), expected, rtol=1e-4, atol=1e-4)


def test_velocity_target_is_orthogonal_rotation_of_noise_and_picture() -> None:
    schedule = Schedule({**SCHEDULE, "prediction_type": "v_prediction"})
    x_0, noise, t = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3), torch.tensor([400])
    a = slow_alpha_bar()[400]
    expected = a.sqrt() * noise - (1 - a).sqrt() * x_0
    torch.testing.assert_close(schedule.target(x_0, noise, t), expected.float(), rtol=1e-4, atol=1e-4)


def test_weight_is_bounded() -> None:
    weight = Schedule(SCHEDULE).bounded_inverse_weight(torch.tensor([0, 999]), 8.0)
    torch.testing.assert_close(weight, torch.tensor([1 / float(slow_alpha_bar()[0]), 8.0]))


def index_of(folder: Path, pipeline: str = "StableDiffusionPipeline") -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    (folder / "scheduler").mkdir()


def test_borders_of_a_flow_are_those_of_sigma(tmp_path: Path) -> None:
    index_of(tmp_path, "StableDiffusion3Pipeline")
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    expected = {"clean_up": [0, 500], "content": [500, 909], "coarse": [909, 1000]}
    assert borders_by_snr(tmp_path, clean_up=1.0, coarse=0.01) == expected
    assert OmegaConf.to_container(OmegaConf.load(conf_dir() / "base" / "_flow.yaml").zones) == expected


def test_borders_by_signal_to_noise_are_those_of_the_paper(tmp_path: Path) -> None:
    index_of(tmp_path)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULE))
    expected = {"clean_up": [0, 354], "content": [354, 934], "coarse": [934, 1000]}
    assert borders_by_snr(tmp_path, clean_up=1.0, coarse=0.01) == expected
    with pytest.raises(UserError, match="must leave three zones, got borders 934 and 354"):
        borders_by_snr(tmp_path, clean_up=0.01, coarse=1.0)
    with pytest.raises(UserError, match=r"model_index.json is missing"):
        borders_by_snr(tmp_path / "elsewhere", clean_up=1.0, coarse=0.01)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("t", [0, 400, 999])
def test_the_origin_of_the_true_target_is_the_picture(prediction: str, t: int) -> None:
    schedule = Schedule({**SCHEDULE, "prediction_type": prediction})
    x_0, noise = torch.randn(2, 2, 4, 3, 3, generator=torch.Generator().manual_seed(t)).double().unbind()
    steps = torch.full((2,), t)
    x_t, target = schedule.add_noise(x_0, noise, steps), schedule.target(x_0, noise, steps)
    for time in (torch.tensor(t), torch.tensor(t + 0.4), torch.tensor(max(0, t - 0.4))):
        torch.testing.assert_close(schedule.origin(x_t, target, time), x_0, rtol=1e-4, atol=1e-4)


def test_each_of_three_zones_by_signal_to_noise_has_a_timestep(tmp_path: Path) -> None:
    index_of(tmp_path)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULE))
    snr = Schedule(SCHEDULE).snr()
    assert borders_by_snr(tmp_path, float(snr[0]), float(snr[998]))["clean_up"] == [0, 1]
    for clean_up, coarse in ((2 * float(snr[0]), 0.01), (1.0, 0.0), (1.0, 1.0)):
        with pytest.raises(UserError, match="must leave three zones"):
            borders_by_snr(tmp_path, clean_up, coarse)
