"""Run a verb as a command whose errors end in one line: `main = command(run, "tune")`."""

import argparse
import contextlib
import functools
import gc
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from quantbooth.runtime.config import conf_dir
from quantbooth.runtime.ending import ended, said
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.explain import explain, flat, is_mistake
from quantbooth.runtime.help import help_text
from quantbooth.runtime.options import require_kept, require_valid, require_valid_sweep
from quantbooth.runtime.records import forget, name_records
from quantbooth.runtime.words import quoted

__all__ = ["command", "quiet_libraries"]

Verb = Callable[[DictConfig], Any]
Job = tuple[DictConfig, Any]
Conclusion = Callable[[list[Job]], object]


@dataclass(frozen=True)
class Failure:
    """A failed job: the message, the job of a sweep, and for a single job the bug to re-raise.

    A sweep stores no exceptions: their tracebacks would keep the job's models alive.
    """

    line: str
    job: str | None = None
    defect: Exception | None = None


def command(verb: Verb, config_name: str, conclude: Conclusion | None = None) -> Callable[[], None]:
    """Return the program of a verb: compose conf/<config_name>.yaml with the command line, call the verb per job, exit.

    At the end `conclude` gets the configuration and the result of every finished job of this process. (Hydra's
    callbacks would turn an error there into a warning.)
    """

    def main() -> None:
        sys.exit(ended(partial(_run, verb, config_name, conclude), config_name))

    return main


def _run(verb: Verb, config_name: str, conclude: Conclusion | None) -> int:
    failures: list[Failure] = []
    finished: list[Job] = []
    quiet_libraries()
    name_records()
    with _hydra_raises(config_name):
        _check_flags(verb, config_name)
        sys.argv[1:] = quoted(sys.argv[1:], config_name)
        require_valid_sweep(sys.argv[1:], config_name)
        program = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)
        program(_guarded(verb, config_name, failures, finished))()
        if conclude is not None and finished:
            conclude(finished)
    return _conclude(failures)


def _guarded(verb: Verb, config_name: str, failures: list[Failure], finished: list[Job]) -> Verb:
    """Return the verb, options checked first, with failures recorded instead of raised, so that other jobs run."""
    main_process = os.getpid()

    @functools.wraps(verb)
    def job(cfg: DictConfig) -> object:
        try:
            require_valid(cfg, config_name)
            result = verb(cfg)
            finished.append((cfg, result))
            return result
        except BrokenPipeError:
            raise
        except Exception as error:
            if os.getpid() != main_process:  # a worker cannot append to the list; the launcher re-raises this
                raise UserError(_line(error, cfg)) from error
            _debug(error)
            failures.append(_failure(error, cfg))
            if is_mistake(error):
                forget()
            return None
        finally:
            gc.collect()

    return job


def _failure(error: Exception, cfg: DictConfig) -> Failure:
    """Return a failed job; one of a sweep is printed at once, and again at the end."""
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return Failure(_line(error, cfg), defect=None if is_mistake(error) else error)
    if not is_mistake(error):
        traceback.print_exception(error)
    job = f"job {HydraConfig.get().job.num + 1} ({' '.join(HydraConfig.get().overrides.task)})"
    said(f"{job} failed: {_line(error, cfg)}")
    return Failure(_line(error, cfg), job)


def _conclude(failures: list[Failure]) -> int:
    for failure in failures:
        if failure.defect is not None:
            raise failure.defect
    if any(failure.job for failure in failures):
        said(f"failed jobs: {len(failures)} (the others finished)")
    for failure in failures:
        said(f"  {failure.job}: {failure.line}" if failure.job else failure.line)
    return 2 if failures else 0


def _line(error: Exception, cfg: DictConfig) -> str:
    return explain(error, cfg=cfg) if is_mistake(error) else f"{type(error).__name__}: {flat(str(error))}"


def quiet_libraries() -> None:
    """Hide Lightning's warnings on frozen bases, short runs and in-memory loaders; QUANTBOOTH_DEBUG=1 shows them."""
    if os.environ.get("QUANTBOOTH_DEBUG") != "1":
        warnings.filterwarnings("ignore", module=r"lightning(_utilities)?\..*")
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*")


def _check_flags(verb: Verb, config_name: str) -> None:
    """Answer --help and --version; refuse unknown flags in one line, instead of Hydra's page of usage."""
    words = sys.argv[1:]
    if "--help" in words or "-h" in words:
        sys.stdout.write(help_text(sys.modules[verb.__module__].__doc__ or "", conf_dir(), config_name))
        sys.exit(0)
    if "--version" in words:
        sys.stdout.write(f"quantbooth {version('quantbooth')}\n")
        sys.exit(0)
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        _, unread = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; --hydra-help shows all flags") from error
    for word in unread:
        if word.startswith("-"):
            option = word.lstrip("-") if "=" in word else f"{word.lstrip('-')}=..."
            raise UserError(f"unknown flag '{word}'; options are written without dashes: {option}")
    if unread:
        raise UserError(f"'{unread[0]}' comes after a flag; write flags such as -m first, then the key=value options")
    require_kept(words, config_name)


@contextlib.contextmanager
def _hydra_raises(config_name: str) -> Iterator[None]:
    """Set HYDRA_FULL_ERROR, without which Hydra prints exceptions and exits with 1.

    Raises:
        UserError: for Hydra's own errors that are ValueErrors.
    """
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    except ValueError as error:
        if is_mistake(error):
            raise
        raise UserError(explain(error, config_name)) from error
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _debug(error: Exception) -> None:
    if is_mistake(error) and os.environ.get("QUANTBOOTH_DEBUG") == "1":
        traceback.print_exception(error)
