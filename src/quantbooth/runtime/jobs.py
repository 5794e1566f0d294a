"""One job of a command as any launcher calls it: in this process or another, with its outcome on record.

A launcher copies the job function into its processes, so that it holds words and numbers only.
"""

import gc
import importlib
import logging
import os
import socket
import time
import traceback
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from quantbooth.runtime.config import plain
from quantbooth.runtime.ending import said
from quantbooth.runtime.explain import explain, flat, is_mistake
from quantbooth.runtime.options import require_valid
from quantbooth.runtime.outcomes import DONE, FAILED, NOT_BEGUN, Outcome, Sweep, settings
from quantbooth.runtime.places import say_store
from quantbooth.runtime.records import forget, name_records
from quantbooth.runtime.sweeps import knowing
from quantbooth.runtime.used import name_unused

__all__ = ["Job", "line_of", "quiet_libraries", "show_traceback"]

log = logging.getLogger(__name__)


@dataclass
class Job:
    """A command's job with its options checked first; one of a sweep never raises, so that the others run.

    Attributes:
        module: of the command.
        config_name: the file in conf/.
        words: of the command line.
        sweep: the record of the sweep, once it has begun.
        again: the sweep whose jobs that are done are kept.
        finished: configuration and result of a single job.
        defect: the error of a single job.
    """

    module: str
    config_name: str
    words: list[str]
    sweep: Sweep | None = None
    finished: list[tuple[DictConfig, Any]] = field(default_factory=list)
    errors: list[tuple[Exception, DictConfig]] = field(default_factory=list)
    again: Sweep | None = None
    home: tuple[str, int, str] = field(default_factory=lambda: (socket.gethostname(), os.getpid(), os.getcwd()))

    def __post_init__(self) -> None:
        self.__module__ = self.module  # Hydra names the job and its log by it

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Let the process of a launcher find the folders of the command line, before Hydra makes the job's."""
        self.__dict__.update(state)
        name_records()
        if self.home[:2] != (socket.gethostname(), os.getpid()) and Path(self.home[2]).is_dir():
            os.chdir(self.home[2])

    def __call__(self, cfg: DictConfig) -> object:
        try:
            return self._single(cfg) if self.sweep is None else self._of_sweep(self.sweep, cfg)
        finally:
            gc.collect()

    def _single(self, cfg: DictConfig) -> object:
        try:
            self.finished.append((cfg, self._run(cfg)))
            return self.finished[-1][1]
        except BrokenPipeError:
            raise
        except Exception as error:
            if is_mistake(error):  # a bug is raised again
                show_traceback(error)
            self.errors.append((error, cfg))
            if is_mistake(error):
                forget()
            return None

    def _of_sweep(self, sweep: Sweep, cfg: DictConfig) -> object:
        """Run a job unless it is done, or another failed and `fail_fast` holds; write how it ends."""
        job = HydraConfig.get()
        number, words = job.job.num, [*job.overrides.task]
        if (found := sweep.find(number)) is not None and found.state == DONE:
            return found.result
        if cfg.get("fail_fast") and sweep.has_failed:
            sweep.write(Outcome(number, words, NOT_BEGUN))
            return None
        began = time.monotonic()
        with knowing(sweep.jobs), sweep.running(number, words) as outcome:
            try:
                result = self._run(cfg)
                value = self._value(cfg, result)
                ended = replace(outcome, state=DONE, result=result, config=settings(cfg))
                return value
            except BrokenPipeError:
                ended = replace(outcome, state=FAILED, line="standard output was closed", mistake=True)
                raise
            except Exception as error:
                ended = replace(outcome, state=FAILED, line=line_of(error, cfg), mistake=is_mistake(error))
                self._tell(error, ended)
                return None
            except BaseException as stop:
                ended = replace(outcome, state=FAILED, line=f"stopped ({type(stop).__name__})", mistake=True)
                raise
            finally:
                sweep.write(replace(ended, seconds=time.monotonic() - began, log=_log()))

    def _run(self, cfg: DictConfig) -> object:
        require_valid(cfg, self.config_name)
        module = importlib.import_module(self.module)
        quiet_libraries()
        if self.sweep is None or HydraConfig.get().job.num == 0:
            say_store(cfg)
        unused_in = getattr(module, "unused_in", None)
        if unused := getattr(module, "UNUSED", ()) if unused_in is None else unused_in(plain(cfg)):
            name_unused(self.words, unused, f"by {self.module.rpartition('.')[2]}")
        return module.job(cfg)

    def _value(self, cfg: DictConfig, result: object) -> object:
        """Return what the sweeper learns of a job: what the command makes of its result, if it does."""
        value_of = getattr(importlib.import_module(self.module), "value", None)
        return result if value_of is None else value_of(cfg, result)

    def _tell(self, error: Exception, ended: Outcome) -> None:
        """Print a failed job at once, a bug with its traceback, which its log gets too."""
        show_traceback(error)
        if not is_mistake(error):
            log.error("%s failed", ended.title, exc_info=error)
        said(f"{ended.title} failed: {ended.line}")
        if is_mistake(error):
            forget()


def line_of(error: Exception, cfg: DictConfig | None = None) -> str:
    """Return what an error says, in one line."""
    return explain(error, cfg=cfg) if is_mistake(error) else f"{type(error).__name__}: {flat(str(error))}"


def show_traceback(error: Exception) -> None:
    """Print the traceback of a bug, and of a mistake where QUANTBOOTH_DEBUG=1."""
    if not is_mistake(error) or os.environ.get("QUANTBOOTH_DEBUG") == "1":
        traceback.print_exception(error)


def quiet_libraries() -> None:
    """Hide Lightning's warnings on frozen bases, short runs and in-memory loaders; QUANTBOOTH_DEBUG=1 shows them."""
    if os.environ.get("QUANTBOOTH_DEBUG") != "1":
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # which Lightning lowers when it is imported
        warnings.filterwarnings("ignore", module=r"lightning(_utilities)?\..*")
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*")


def _log() -> str | None:
    """Return the log of the running job, if it wrote one."""
    hydra = HydraConfig.get()
    file = Path(hydra.runtime.output_dir) / f"{hydra.job.name}.log"
    return str(file) if file.is_file() and file.stat().st_size else None
