"""The scheduler configuration of a base: each key is honoured by training and sampling, or refused with its value.

Which scheduler draws pictures is decided by sampler.scheduler alone; `_class_name` only says of what kind the noise
schedule is. The other keys reach the scheduler as by diffusers' `Scheduler.from_config(pipeline.scheduler.config)`:

    the noise schedule                     num_train_timesteps, beta_*, trained_betas, prediction_type, ...: always
    places of timesteps                    timestep_spacing, steps_offset: always
    changes of x_0 or of the noise levels  clip_sample, use_karras_sigmas, ...: or refused where it does not have them
    of a single solver                     solver_order, skip_prk_steps, ...: where it is that solver
"""

import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
from diffusers.schedulers import KarrasDiffusionSchedulers

from quantbooth.diffusion.diffusers_folder import part_of, read_json, require_values, shortened
from quantbooth.runtime.errors import UserError

__all__ = ["DDPM_KINDS", "new_scheduler", "own_default", "read_scheduler_config", "require_ddpm"]

SCHEDULER_FILE = Path("scheduler", "scheduler_config.json")
DDPM_KINDS = tuple(kind.name for kind in KarrasDiffusionSchedulers if not kind.name.startswith("EDM"))
MOST_TIMESTEPS = 100_000
ALLOWED: dict[str, tuple[Any, ...]] = {
    "prediction_type": ("epsilon", "v_prediction"),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "timestep_type": ("discrete",),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False, None),
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
    "algorithm_type": ("dpmsolver++", "dpmsolver", "deis"),  # the others draw noise
    "interpolation_type": ("linear", "log_linear"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "shift_terminal": (None,),
}
"""Values of keys that have other values in diffusers."""
NEUTRAL: dict[str, Any] = {
    **dict.fromkeys(("rescale_betas_zero_snr", "clip_sample", "thresholding", "use_karras_sigmas"), False),
    **dict.fromkeys(("use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"), False),
    **dict.fromkeys(("sigma_min", "sigma_max"), None),
    **{"final_sigmas_type": "zero", "lambda_min_clipped": -float("inf")},
}
"""Values of keys that change pictures by which a scheduler without the key draws the same."""


@cache
def _defaults(kind: str) -> dict[str, Any]:
    """Return the configuration keys of a diffusers scheduler with their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(getattr(diffusers, kind).__init__).parameters.items()
        if parameter.default is not parameter.empty
    }


@cache
def _known() -> dict[str, tuple[Any, ...]]:
    """Return all keys of schedulers with a DDPM noise schedule, with their defaults."""
    tables = [_defaults(kind) for kind in DDPM_KINDS]
    return {key: tuple(table[key] for table in tables if key in table) for table in tables for key in table}


def read_scheduler_config(folder: Path) -> dict[str, Any]:
    """Read the scheduler configuration of a base.

    Raises:
        UserError: when it is missing or damaged.
    """
    return read_json(part_of(folder, SCHEDULER_FILE.parent.name) / SCHEDULER_FILE.name)


def own_default(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of an absent key in the base's own scheduler; None where that does not have it."""
    kind = config.get("_class_name")
    return _defaults(kind).get(key) if kind in DDPM_KINDS else None


def require_ddpm(config: Mapping[str, Any]) -> None:
    """Refuse what is not the configuration of a DDPM noise schedule, or not supported.

    Raises:
        UserError: naming the file, the key and its value.
    """
    kind = config.get("_class_name", DDPM_KINDS[0])
    if kind not in DDPM_KINDS:
        flow = "; flow matching is not supported yet" if "Flow" in str(kind) else ""
        raise UserError(
            f"{SCHEDULER_FILE}: _class_name must be a scheduler of a DDPM noise schedule, such as "
            f"{DDPM_KINDS[0]}, found {shortened(kind)}{flow}"
        )
    for key, value in config.items():
        if key.startswith("_"):
            continue
        if (defaults := _known().get(key)) is None:
            raise UserError(
                f"{SCHEDULER_FILE} says {shortened(key)} = {shortened(value)}, which no scheduler of a DDPM noise "
                "schedule has; choose a base without it"
            )
        if not any(_of_kind(value, default) for default in defaults):
            raise UserError(f"{SCHEDULER_FILE}: {key} cannot be {shortened(value)}; its default is {defaults[0]!r}")
    require_values(SCHEDULER_FILE, config, ALLOWED)
    _require_betas(config)


def _of_kind(value: Any, default: Any) -> bool:
    """Return whether a value has the type of a default; null stands for false."""
    if default is None or (value is None and default is False):
        return True
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


def _require_betas(config: Mapping[str, Any]) -> None:
    """Refuse a schedule that is left out, endless, or not of probabilities."""
    betas, zero = config.get("trained_betas"), bool(config.get("rescale_betas_zero_snr"))
    linear = config.get("beta_schedule") != "squaredcos_cap_v2"
    needed = ("beta_schedule", *(("beta_start", "beta_end") if linear else ())) if betas is None else ()
    for key in ("num_train_timesteps", *needed):
        if key not in config:
            raise UserError(f"{SCHEDULER_FILE} must say {key}; a base without it has an unknown noise schedule")
    count = config["num_train_timesteps"]
    if not 2 <= count <= MOST_TIMESTEPS:
        raise UserError(f"{SCHEDULER_FILE}: num_train_timesteps must be 2 to {MOST_TIMESTEPS}, found {count}")
    if betas is None:
        start, end = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
        if linear and not 0 < start <= end < 1:
            raise UserError(f"{SCHEDULER_FILE}: beta_start <= beta_end must be in (0, 1), found {start} and {end}")
    elif not isinstance(betas, list) or not all(isinstance(one, float) and 0 < one < 1 for one in betas):
        raise UserError(f"{SCHEDULER_FILE}: trained_betas must be a list of numbers in (0, 1)")
    elif len(betas) != count:
        raise UserError(f"{SCHEDULER_FILE}: trained_betas must have num_train_timesteps = {count}, found {len(betas)}")
    if zero and config.get("prediction_type", "epsilon") == "epsilon":
        raise UserError(
            f"{SCHEDULER_FILE}: rescale_betas_zero_snr=true needs prediction_type=v_prediction, found epsilon, which "
            "does not give a picture where there is only noise"
        )


def new_scheduler(kinds: Mapping[str, Any], name: str, config: Mapping[str, Any], steps: int) -> Any:
    """Return a new diffusers scheduler of this configuration with its timesteps set.

    Args:
        kinds: diffusers' schedulers by our names.
        name: one of them.
        config: of the base.
        steps: number of inference steps.

    Raises:
        UserError: when the scheduler does not honour the configuration, naming the key, its value and those that do.
    """
    for key, neutral in NEUTRAL.items():
        value = config.get(key, neutral)
        if value != neutral and value is not None and key not in _defaults(kinds[name].__name__):
            able = [other for other, kind in kinds.items() if key in _defaults(kind.__name__)]
            raise UserError(
                f"sampler.scheduler={name} does not have {key} = {shortened(value)} of the base's {SCHEDULER_FILE}; "
                + (f"choose sampler={' or '.join(able)}" if able else "choose a base without it")
            )
    try:
        scheduler = kinds[name].from_config(dict(config))
        scheduler.set_timesteps(steps)
    except (ValueError, TypeError, ImportError, RuntimeError, ArithmeticError, IndexError) as error:
        said = str(error).strip().partition("\n")[0]
        raise UserError(f"sampler.scheduler={name} cannot be made of {SCHEDULER_FILE}: {said}") from error
    low, high = float(scheduler.timesteps.min()), float(scheduler.timesteps.max())
    if not 0 <= low <= high <= (last := config["num_train_timesteps"] - 1):
        raise UserError(
            f"timesteps of sampler.scheduler={name} must be in 0 to {last}, got {low:g} to {high:g} from "
            f"steps_offset = {scheduler.config.get('steps_offset')} and sampler.steps={steps}; choose fewer steps"
        )
    return scheduler
