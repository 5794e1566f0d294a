"""A search: Optuna chooses the options of a trial by the objectives of earlier ones; its jobs are not known before."""

from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.hydra_versions import register
from quantbooth.runtime.sweeps import overrides_of_sweep

__all__ = ["ends_of_search", "name_directions", "require_comparable", "require_search"]

SWEEPER = "OptunaSweeper"
COMPARED = ("subject", "subjects", "seed", "scorer", "protocol")
"""Options that a search may not choose: it would choose the easiest."""


def name_directions() -> None:
    """Define ${maximized:[a,b]} in configs, the directions of objectives: every score is better where it is higher."""
    register("maximized", lambda objectives: ["maximize"] * len(objectives))


def ends_of_search() -> list[list[str]]:
    """Return the overrides of the two trials at the ends of all values that are searched; none for another sweeper.

    Raises:
        UserError: where no option has several values, or one of them would change what is compared.
    """
    sweeper = HydraConfig.get().sweeper
    if not str(sweeper.get("_target_")).endswith(SWEEPER):
        return []
    given = [one for one in overrides_of_sweep() if not one.is_hydra_override()]
    if not sweeper.get("custom_search_space") and not any(one.is_sweep_override() for one in given):
        raise UserError(
            "a search needs an option with several values, got none; add one such as "
            "'tuner.learning_rate=tag(log,interval(0.005,0.05))'"
        )
    require_comparable([one.get_key_element() for one in given if one.is_sweep_override()])
    return [[_word(one, place) for one in given] for place in (0, -1)]


def require_comparable(searched: Sequence[str]) -> None:
    """Refuse a search over what its trials are compared on.

    Raises:
        UserError: naming the option.
    """
    for key in searched:
        if key.partition(".")[0] in COMPARED:
            raise UserError(
                f"a search must not choose {key}: scores of several do not compare; give one, or for several subjects "
                "in every trial subjects=[toy_mug,toy_duck]"
            )


def _word(one: Override, place: int) -> str:
    if not one.is_sweep_override():
        return str(one.input_line)
    value = one.value()
    ends = [value.start, value.end] if isinstance(value, IntervalSweep) else list(one.sweep_string_iterator())
    if not ends:
        raise UserError(f"{one.input_line} has no value, so there is nothing to search")
    return f"{one.get_key_element()}={ends[place]}"


def require_search(cfg: DictConfig) -> None:
    """Refuse a search that has nothing to maximize.

    Raises:
        UserError: naming the option.
    """
    if not cfg.get("objectives"):
        raise UserError("a search needs objectives, got objectives=[]; write objectives=[clip_t,local_clip_i]")
    if cfg.get("dry_run"):
        raise UserError(
            "dry_run=true shows jobs that are known before, which a search chooses as it goes; leave it out"
        )
