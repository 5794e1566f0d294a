"""The jobs of a sweep, all known before the first one starts: Hydra's own sweeper makes the product of their values."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.hydra_versions import BASE

__all__ = [
    *("Together", "before_jobs", "config_of", "in_sweep", "known_jobs", "knowing", "overrides_of_sweep"),
    *("require_values", "swept", "sweep_name"),
]


_last: ContextVar[str | None] = ContextVar("sweep", default=None)
_jobs: ContextVar[Sequence[Sequence[str]]] = ContextVar("jobs", default=())


@contextmanager
def before_jobs(look: Callable[[DictConfig], None]) -> Iterator[None]:
    """Call a function with the configuration of a sweep before the first job, whichever launcher it has.

    Hydra would turn an error of one of its callbacks into a warning.
    """
    start = Callbacks.on_multirun_start

    def started(self: Callbacks, config: DictConfig, **given: Any) -> None:
        folder = str(config.hydra.sweep.dir)  # from here on ${now:} and ${unique:} in it stay
        seen, shown = HydraConfig.instance().cfg, deepcopy(config)
        with read_write(shown.hydra.runtime), open_dict(shown.hydra.runtime):
            shown.hydra.runtime.output_dir = str(Path(folder).absolute())
        try:
            HydraConfig.instance().set_config(shown)
            look(config)
        finally:
            HydraConfig.instance().cfg = seen
        start(self, config, **given)

    Callbacks.on_multirun_start = started  # type: ignore[method-assign]
    try:
        yield
    finally:
        Callbacks.on_multirun_start = start  # type: ignore[method-assign]


@contextmanager
def knowing(jobs: Sequence[Sequence[str]]) -> Iterator[None]:
    """Let known_jobs() return these within the block: the process of a launcher has another command line."""
    before = _jobs.set(jobs)
    try:
        yield
    finally:
        _jobs.reset(before)


def in_sweep() -> bool:
    """Return whether the running job is one of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def known_jobs() -> list[list[str]]:
    """Return the overrides of each job of the running sweep; none where another sweeper chooses them as it goes."""
    if told := _jobs.get():
        return [[*words] for words in told]
    hydra_config = HydraConfig.get()
    if not str(hydra_config.sweeper.get("_target_")).endswith("BasicSweeper"):
        return []
    try:
        given = overrides_of_sweep()
        jobs = BasicSweeper.split_arguments([one for one in given if not one.is_hydra_override()], None)[0]
    except (HydraException, SystemExit):
        return []
    running = -1 if OmegaConf.is_missing(hydra_config.job, "num") else hydra_config.job.num  # none before the first
    # processes of a launcher have another command line, which may lack the sweep
    return jobs if len(jobs) > running else []


def overrides_of_sweep() -> list[Override]:
    """Return the options of the running sweep: those of its configuration, then those of the command line.

    Raises:
        HydraException: for one that Hydra cannot read.
        SystemExit: for a command line that is not Hydra's.
    """
    words = [f"{key}={value}" for key, value in (HydraConfig.get().sweeper.get("params") or {}).items()]
    typed = get_args_parser().parse_args(sys.argv[1:]).overrides
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None  # which finds what glob(*) names
    return OverridesParser.create(loader).parse_overrides([*words, *typed])


def require_values(folder: Path) -> None:
    """Refuse a sweep over no values after it ended: Hydra makes no job of it and says nothing.

    Args:
        folder: of the configs that glob(*) chooses from.

    Raises:
        UserError: for the first option, such as subject=glob(x*) where no subject begins so.
    """
    words = get_args_parser().parse_args(sys.argv[1:]).overrides
    with initialize_config_dir(str(folder), **BASE):
        given = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(words)
        for word, one in zip(words, given, strict=True):
            if one.is_sweep_override() and not list(one.sweep_string_iterator()):
                raise UserError(f"{word} has no value, so the sweep has no job; --help shows the choices of groups")


def swept() -> list[str]:
    """Return the overrides of the running job that not all jobs of its sweep have; none outside a sweep."""
    if not in_sweep() or not (jobs := known_jobs()):
        return []
    return [word for word in jobs[HydraConfig.get().job.num] if not all(word in job for job in jobs)]


def sweep_name() -> str | None:
    """Return the name of the sweep that runs or has just run, of its experiment and its beginning; None without one."""
    if in_sweep():
        began = "-".join(Path(HydraConfig.get().sweep.dir).parts[-2:])
        experiment = HydraConfig.get().runtime.choices.get("experiment")
        _last.set(began if experiment in (None, "null") else f"{experiment}-{began}")
    return _last.get()


def config_of(overrides: list[str]) -> DictConfig:
    """Return the configuration of a job of the running sweep, as its job gets it."""
    cfg: Any = HydraConfig.instance().cfg
    made = deepcopy(GlobalHydra.instance().config_loader().load_sweep_config(cfg, overrides))
    with open_dict(made):
        del made["hydra"]
    return made


@dataclass(frozen=True)
class Together:
    """What the jobs of a sweep must have alike, because one document is about all of them."""

    first: dict[str, object] = field(default_factory=dict)

    def require(self, alike: dict[str, object]) -> None:
        """Refuse a job that differs from an earlier one.

        Raises:
            UserError: naming the first difference.
        """
        for what, value in alike.items():
            if (other := self.first.setdefault(what, value)) != value:
                raise UserError(
                    f"one document needs one {what}, got {other} of an earlier job and {value}; sweep over each "
                    "separately"
                )
