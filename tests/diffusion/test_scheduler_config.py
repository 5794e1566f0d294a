"""Options of a base's scheduler: pictures equal those of diffusers' own pipeline, or the option is refused by name."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from experiments.random_base import random_base
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.ddpm import DDPM_SCHEDULERS
from quantbooth.diffusion.pretrained import as_pipeline
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.diffusion.schedule import Schedule
from quantbooth.runtime.errors import UserError
from quantbooth_toyworld.models import SCHEDULE

pytestmark = pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")

TEXTS = ["a red mug"]
BARE = {key: SCHEDULE[key] for key in ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end")}
BETAS = torch.linspace(0.001, 0.02, 1000).tolist()


@pytest.fixture(scope="module")
def xl() -> Base:
    return random_base("tiny-xl")


def configured(base: Base, **options: Any) -> Base:
    """The base with a scheduler of the class and options that it would have on disk, and no others."""
    return replace(base, scheduler_config={**BARE, **options})


def ours(base: Base, scheduler: str) -> torch.Tensor:
    return Sampler(scheduler, 4, 4.0).sample(base, TEXTS, initial_noise(TEXTS, [0], base.latent_shape))


def theirs(base: Base, scheduler: str) -> torch.Tensor:
    """Pictures of diffusers' pipeline that is constructed with this scheduler."""
    made = as_pipeline(base)
    parts = {**made.components, "scheduler": DDPM_SCHEDULERS[scheduler].from_config(base.scheduler_config)}
    about = {} if "tokenizer_2" in parts else {"requires_safety_checker": False}
    pipeline = type(made)(**parts, **about)
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise(TEXTS, [0], base.latent_shape)
    return pipeline(TEXTS, latents=noise, num_inference_steps=4, guidance_scale=4.0, output_type="pt").images


SHARED: list[dict[str, Any]] = [
    {},
    {"prediction_type": "v_prediction"},
    {"timestep_spacing": "trailing", "steps_offset": 3},
    {"timestep_spacing": "linspace", "set_alpha_to_one": False, "skip_prk_steps": True},
    {"timestep_spacing": "leading", "steps_offset": 7, "prediction_type": "v_prediction"},
    {"beta_schedule": "squaredcos_cap_v2", "set_alpha_to_one": True},
    {"beta_schedule": "linear", "skip_prk_steps": False},
    {"trained_betas": BETAS},
]
OWN: list[tuple[str, dict[str, Any]]] = [
    ("ddim", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    ("euler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    ("ddim", {"thresholding": True, "sample_max_value": 1.5}),
    ("dpm", {"thresholding": True}),
    ("dpm", {"use_karras_sigmas": True}),
    ("euler", {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}),
    ("euler", {"use_exponential_sigmas": True, "sigma_min": 0.1, "sigma_max": 9.0}),
    ("dpm", {"use_lu_lambdas": True, "final_sigmas_type": "sigma_min", "algorithm_type": "dpmsolver"}),
    ("dpm", {"solver_order": 3, "euler_at_final": True, "lambda_min_clipped": -5.1}),
]
GRID = [(scheduler, options) for scheduler in DDPM_SCHEDULERS for options in SHARED] + OWN


@pytest.mark.parametrize(("scheduler", "options"), GRID)
@pytest.mark.parametrize("family", ["sd", "xl"])
@pytest.mark.chain
def test_pictures_are_those_of_the_pipeline_of_diffusers(
    small_base: Base, xl: Base, family: str, scheduler: str, options: dict[str, Any]
) -> None:
    """The scheduler of SDXL keeps its clip_sample, that of Stable Diffusion is set by its pipeline."""
    base = configured(small_base, **options) if family == "sd" else configured(xl, clip_sample=False, **options)
    torch.testing.assert_close(ours(base, scheduler), theirs(base, scheduler), rtol=0, atol=1e-5)


@pytest.mark.parametrize("clip", [{}, {"clip_sample": True}, {"clip_sample": False}])
@pytest.mark.parametrize("kind", ["DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"])
def test_samples_of_stable_diffusion_are_not_clipped(small_base: Base, kind: str, clip: Mapping[str, bool]) -> None:
    plain, base = configured(small_base, clip_sample=False), configured(small_base, _class_name=kind, **clip)
    assert torch.equal(ours(base, "ddim"), ours(plain, "ddim"))
    torch.testing.assert_close(ours(base, "ddim"), theirs(base, "ddim"), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "clipped"),
    [
        ({"_class_name": "EulerDiscreteScheduler"}, False),
        ({"_class_name": "PNDMScheduler"}, False),
        ({"_class_name": "DDIMScheduler"}, True),
        ({"_class_name": "EulerDiscreteScheduler", "clip_sample": True}, True),
    ],
)
def test_samples_of_sdxl_are_clipped_where_its_own_scheduler_does(
    xl: Base, options: Mapping[str, Any], clipped: bool
) -> None:
    base, said = configured(xl, **options), configured(xl, clip_sample=clipped)
    assert torch.equal(ours(base, "ddim"), ours(said, "ddim"))
    torch.testing.assert_close(ours(said, "ddim"), theirs(said, "ddim"), rtol=0, atol=1e-5)
    assert not torch.equal(ours(base, "ddim"), ours(configured(xl, clip_sample=not clipped), "ddim"))
    if clipped:
        with pytest.raises(UserError, match=r"scheduler=euler does not have clip_sample = true .* sampler=ddim$"):
            ours(base, "euler")


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_the_pipeline_of_a_base_draws_its_pictures_whatever_its_own_scheduler(
    small_base: Base, xl: Base, family: str
) -> None:
    base = configured(small_base if family == "sd" else xl, _class_name="EulerDiscreteScheduler", steps_offset=1)
    pipeline, noise = as_pipeline(base), initial_noise(TEXTS, [0], base.latent_shape)
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(TEXTS, latents=noise, num_inference_steps=4, guidance_scale=4.0, output_type="pt").images
    torch.testing.assert_close(ours(base, "ddim"), found, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "unable"),
    [
        ("rescale_betas_zero_snr", True, "pndm"),
        ("thresholding", True, "pndm euler"),
        ("use_karras_sigmas", True, "ddim pndm"),
        ("use_exponential_sigmas", True, "ddim pndm"),
        ("use_beta_sigmas", True, "ddim pndm"),
        ("use_lu_lambdas", True, "ddim pndm euler"),
        ("final_sigmas_type", "sigma_min", "ddim pndm"),
        ("sigma_max", 10.0, "ddim pndm dpm"),
        ("lambda_min_clipped", -5.1, "ddim pndm euler"),
    ],
)
def test_a_scheduler_without_an_option_of_the_base_is_refused(
    small_base: Base, key: str, value: Any, unable: str
) -> None:
    base = configured(small_base, prediction_type="v_prediction", **{key: value})
    for name in DDPM_SCHEDULERS:
        if name in unable.split():
            with pytest.raises(UserError, match=rf"scheduler={name} does not have {key} = {json.dumps(value)}"):
                Sampler(name, 4, 4.0).new_scheduler(base)
        else:
            Sampler(name, 4, 4.0).new_scheduler(base)


def flawed(**options: Any) -> Schedule:
    return Schedule({**SCHEDULE, **options})


REFUSED: list[dict[str, Any]] = [
    *({"_class_name": kind} for kind in ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "LCMScheduler")),
    *(
        {"_class_name": kind}
        for kind in ("CMStochasticIterativeScheduler", "TCDScheduler", "Mine", 3, ["a", "b"], None)
    ),
    {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    {"sigma_data": 0.5},
    {"shift": 3.0},
    {"auto_map": {"AutoModel": "x.Y"}},
    *({"prediction_type": kind} for kind in ("sample", "flow_prediction", None)),
    *({"beta_schedule": kind} for kind in ("sigmoid", "laplace", "cosine")),
    {"timestep_spacing": "karras"},
    {"timestep_type": "continuous"},
    {"use_flow_sigmas": True},
    {"use_dynamic_shifting": True},
    {"variance_type": "learned_range"},
    {"algorithm_type": "sde-dpmsolver++"},
    {"thresholding": "yes"},
    {"rescale_betas_zero_snr": 1},
    {"rescale_betas_zero_snr": True},
    {"steps_offset": 0.5},
    *({"num_train_timesteps": count} for count in (10**9, 10**30, 1, 0, -5, True, "1000", None)),
    *({"beta_start": beta} for beta in (-0.1, 0, 2, "small", None, True)),
    *({"beta_end": beta} for beta in (0.0001, 1.5)),
    *({"trained_betas": betas} for betas in ([0.1, 0.2], [2.0] * 1000, ["x"] * 1000, 0.1, [])),
]


@pytest.mark.parametrize("options", REFUSED, ids=lambda options: json.dumps(options)[:50])
def test_what_is_not_a_supported_noise_schedule_is_refused_by_file_and_key(options: dict[str, Any]) -> None:
    (key,) = options
    with pytest.raises(UserError, match=rf"^scheduler/scheduler_config\.json\b.*\b{key}\b") as caught:
        flawed(**options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_flow_matching_is_named() -> None:
    with pytest.raises(UserError, match="flow matching is not supported yet"):
        flawed(_class_name="FlowMatchEulerDiscreteScheduler")


@pytest.mark.parametrize("key", BARE)
def test_a_schedule_that_is_left_out_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=rf"must say {key};"):
        Schedule({name: value for name, value in SCHEDULE.items() if name != key})


def test_timesteps_beyond_the_schedule_are_refused(small_base: Base, xl: Base) -> None:
    with pytest.raises(UserError, match=r"must be in 0 to 999, got 1 to 1000 .*sampler\.steps=1000"):
        Sampler("ddim", 1000, 4.0).new_scheduler(small_base)
    with pytest.raises(UserError, match="steps_offset = 600"):
        Sampler("ddim", 4, 4.0).new_scheduler(configured(xl, steps_offset=600))
