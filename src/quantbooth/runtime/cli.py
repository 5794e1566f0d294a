"""A command whose errors end in one line: `tune = Command("quantbooth.commands.tune", "quantbooth")`."""

import ast
import contextlib
import importlib
import os
import re
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.abc import SourceLoader
from importlib.util import find_spec
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from quantbooth.runtime.config import conf_dir
from quantbooth.runtime.ending import ended, said
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.explain import explain, flat, is_mistake
from quantbooth.runtime.flags import checked_flags, package_found
from quantbooth.runtime.help import help_text
from quantbooth.runtime.hydra_versions import BASE, with_mode
from quantbooth.runtime.jobs import Job, line_of, quiet_libraries, show_traceback
from quantbooth.runtime.launching import begin_sweep, show_failures
from quantbooth.runtime.malloc import restart_with_settings
from quantbooth.runtime.options import require_valid_sweep
from quantbooth.runtime.outcomes import DONE, Sweep
from quantbooth.runtime.presets import contradicted
from quantbooth.runtime.records import name_records
from quantbooth.runtime.retrying import retried
from quantbooth.runtime.searching import name_directions
from quantbooth.runtime.sweeps import before_jobs, require_values
from quantbooth.runtime.used import require_own
from quantbooth.runtime.words import quoted

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """A program: compose conf/<config_name>.yaml with the command line, call `job` of a module on each job, exit.

    Before the first job of a sweep, `check_job` of the module, if any, gets the configuration of every job, refuses
    what it cannot do, and returns what all jobs must have alike. At the end `conclude`, if any, gets the configuration
    and the result of every finished job, of whichever process: a launcher may have run them anywhere.

    Attributes:
        module: imported when the options of the first job are valid; its docstring is the help.
        config_name: the file in conf/.
        first_word: the option that a first word without `=` is the value of, as in git.
    """

    module: str
    config_name: str
    first_word: str | None = None

    def __call__(self) -> None:
        sys.exit(ended(partial(_run, self), self.config_name))

    def help(self) -> str:
        """Return what --help prints."""
        return help_text(_docstring(self.module), conf_dir(), self.config_name)

    def words(self, typed: list[str]) -> list[str]:
        """Return the words of the command line as Hydra reads them."""
        if self.first_word and typed and re.fullmatch(r"\w+", typed[0]):
            if again := [word for word in typed[1:] if word.lstrip("+").startswith(f"{self.first_word}=")]:
                raise UserError(f"{typed[0]!r} is the {self.first_word}, and {again[0]!r} too; leave one out")
            typed = [f"{self.first_word}={typed[0]}", *typed[1:]]
        return quoted(typed, self.config_name)


def _run(command: Command) -> int:
    name_records()
    name_directions()
    if {"--help", "-h"} & {*sys.argv[1:]}:
        sys.stdout.write(command.help())
        return 0
    restart_with_settings()
    with _hydra_raises(command.config_name):
        sys.argv[1:], again = retried(sys.argv[1:], command.module)
        flags = checked_flags(sys.argv[1:], command.config_name)
        sys.argv[1:] = with_mode(command.words(sys.argv[1:]), conf_dir())
        require_own(sys.argv[1:], command.module.rpartition(".")[2])
        require_valid_sweep(sys.argv[1:], command.config_name)
        for line in contradicted(sys.argv[1:], conf_dir()):
            said(line)
        job = Job(command.module, command.config_name, sys.argv[1:], again=again)
        launcher_error = _launch(command, job, flags)
        if job.sweep is not None:
            return _end_sweep(command, job.sweep, launcher_error, flags.config_dir)
        if job.finished:
            _conclude(command, job.finished)
    for error, cfg in job.errors:
        if not is_mistake(error):
            raise error
        said(line_of(error, cfg))
    return 2 if job.errors else 0


def _launch(command: Command, job: Job, flags: Namespace) -> Exception | None:
    """Let Hydra run the job, or those of a sweep; return the error of a launcher that did not bring them to an end."""
    program = hydra.main(config_path=str(conf_dir()), config_name=command.config_name, **BASE)
    with package_found(flags), before_jobs(lambda _: begin_sweep(job)):
        try:
            program(job)()
        except BrokenPipeError:
            raise
        except Exception as error:
            if job.sweep is None:
                raise
            return error
    return None


def _end_sweep(command: Command, sweep: Sweep, launcher_error: Exception | None, config_dir: str | None) -> int:
    """Conclude the jobs that are done, of whatever process, name the others, and return the exit code."""
    outcomes = sweep.outcomes()
    if not outcomes and launcher_error is None and config_dir is None:
        require_values(conf_dir())
    if done := [one for one in outcomes if one.state == DONE]:
        _conclude(command, [(OmegaConf.create(dict(one.config or {})), one.result) for one in done])
    said_failures = show_failures(sweep, outcomes)
    if launcher_error is not None:
        show_traceback(launcher_error)
        said(f"the launcher ended the sweep: {line_of(launcher_error)}")
    return max(said_failures, 0 if launcher_error is None else 2 if is_mistake(launcher_error) else 1)


def _conclude(command: Command, jobs: list[tuple[DictConfig, Any]]) -> None:
    module = importlib.import_module(command.module)  # jobs may have run in other processes
    if conclude := getattr(module, "conclude", None):
        quiet_libraries()
        conclude(jobs)


def _docstring(module: str) -> str:
    """Return the docstring of a module without importing it."""
    if module in sys.modules:
        return sys.modules[module].__doc__ or ""
    spec = find_spec(module)
    source = spec.loader.get_source(module) if spec and isinstance(spec.loader, SourceLoader) else None
    return ast.get_docstring(ast.parse(source or "")) or ""


@contextlib.contextmanager
def _hydra_raises(config_name: str) -> Iterator[None]:
    """Set HYDRA_FULL_ERROR, without which Hydra prints exceptions and exits with 1.

    Raises:
        UserError: for Hydra's own errors that are ValueErrors, and what it asserts of options.
    """
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    except ValueError as error:
        if is_mistake(error):
            raise
        raise UserError(explain(error, config_name)) from error
    except AssertionError as error:
        raise UserError(f"Hydra cannot compose these options ({flat(str(error))}); look at those of hydra.*") from error
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
