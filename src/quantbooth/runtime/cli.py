"""A command whose errors end in one line: `tune = Command("quantbooth.commands.tune", "quantbooth")`."""

import ast
import contextlib
import gc
import importlib
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.abc import SourceLoader
from importlib.util import find_spec
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from quantbooth.runtime.config import conf_dir
from quantbooth.runtime.ending import ended, said
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.explain import explain, flat, is_mistake
from quantbooth.runtime.flags import checked_flags, package_found
from quantbooth.runtime.help import help_text
from quantbooth.runtime.options import require_valid, require_valid_sweep
from quantbooth.runtime.places import say_store
from quantbooth.runtime.progress import progress
from quantbooth.runtime.records import forget, name_records
from quantbooth.runtime.sweeps import Together, config_of, in_sweep, known_jobs, require_values
from quantbooth.runtime.used import name_unused, require_own
from quantbooth.runtime.words import quoted

__all__ = ["Command", "quiet_libraries"]

Job = tuple[DictConfig, Any]
FEW = 8
"""Jobs that are composed in a few seconds."""


@dataclass(frozen=True)
class Failure:
    """A failed job: the message, the job of a sweep, and for a single job the bug to re-raise.

    A sweep stores no exceptions: their tracebacks would keep the job's models alive.
    """

    line: str
    job: str | None = None
    defect: Exception | None = None


@dataclass(frozen=True)
class Command:
    """A program: compose conf/<config_name>.yaml with the command line, call `job` of a module on each job, exit.

    Before the first job of a sweep, `check_job` of the module, if any, gets the configuration of every job, refuses
    what it cannot do, and returns what all jobs must have alike. At the end `conclude`, if any, gets the configuration
    and the result of every finished job of this process. (Hydra's callbacks would turn an error there into a warning.)

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
    failures: list[Failure] = []
    finished: list[Job] = []
    name_records()
    with _hydra_raises(command.config_name):
        words = sys.argv[1:]
        if "--help" in words or "-h" in words:
            sys.stdout.write(command.help())
            return 0
        flags = checked_flags(words, command.config_name)
        sys.argv[1:] = command.words(sys.argv[1:])
        require_own(sys.argv[1:], command.module.rpartition(".")[2])
        require_valid_sweep(sys.argv[1:], command.config_name)
        program = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command.config_name)
        with package_found(flags):
            program(_guarded(command, failures, finished))()
        if flags.multirun and not finished and not failures and flags.config_dir is None:
            require_values(conf_dir())
        if finished and (conclude := getattr(sys.modules.get(command.module), "conclude", None)):
            conclude(finished)
    return _conclude(failures)


def _guarded(command: Command, failures: list[Failure], finished: list[Job]) -> Callable[[DictConfig], object]:
    """Return the job, options checked first, with failures recorded instead of raised, so that other jobs run."""
    main_process = os.getpid()
    checked, told = list[bool](), list[bool]()

    def job(cfg: DictConfig) -> object:
        if in_sweep() and os.getpid() == main_process and not checked:
            _check_sweep(command)
            checked.append(True)
        try:
            require_valid(cfg, command.config_name)
            module = importlib.import_module(command.module)
            quiet_libraries()
            if os.getpid() == main_process and not told:
                say_store(cfg)
                told.append(True)
            if unused := getattr(module, "UNUSED", ()):
                name_unused(sys.argv[1:], unused, f"by {command.module.rpartition('.')[2]}")
            result = module.job(cfg)
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

    job.__module__ = command.module  # Hydra names the job and its log by it
    return job


def _check_sweep(command: Command) -> None:
    """Check all jobs of a sweep, as far as they are known; end the command before the first computes if one is refused.

    A bug is left to the job that has it.
    """
    jobs = [(f"job {number} ({' '.join(words)})", words) for number, words in enumerate(known_jobs(), 1)]
    together, found, refused = Together(), list[tuple[str, DictConfig]](), dict[str, list[str]]()

    def tried(job: str, check: Callable[[], object]) -> None:
        try:
            check()
        except Exception as error:
            if is_mistake(error):
                _debug(error)
                refused.setdefault(explain(error), []).append(job)

    def compose(job: str, words: list[str]) -> None:
        found.append((job, config_of(words)))
        require_valid(found[-1][1], command.config_name)

    def compare(check: Callable[[DictConfig], dict[str, object] | None], cfg: DictConfig) -> None:
        together.require(check(cfg) or {})

    for job, words in progress(jobs, "composing all jobs") if len(jobs) > FEW else jobs:
        tried(job, partial(compose, job, words))
    check = None if refused else getattr(importlib.import_module(command.module), "check_job", None)
    quiet_libraries()
    if check is not None:
        for job, cfg in progress(found, "checking all jobs"):
            tried(job, partial(compare, check, cfg))
            gc.collect()
            gc.freeze()  # libraries and what all jobs share: the next collection looks at what is new
    for line, (first, *others) in refused.items():
        also = f" and {len(others)} more" if others else ""
        said(f"{first}{also} refused before any job began: {line}")
    if refused:
        forget()
        sys.exit(2)


def _failure(error: Exception, cfg: DictConfig) -> Failure:
    """Return a failed job; one of a sweep is printed at once, and again at the end."""
    if not in_sweep():
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
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # which Lightning lowers when it is imported
        warnings.filterwarnings("ignore", module=r"lightning(_utilities)?\..*")
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*")


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


def _debug(error: Exception) -> None:
    if is_mistake(error) and os.environ.get("QUANTBOOTH_DEBUG") == "1":
        traceback.print_exception(error)
