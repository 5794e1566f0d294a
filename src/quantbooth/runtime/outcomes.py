"""The record of a sweep, a file for each job: its processes write them, on any host, and whoever asks reads them.

<hydra.sweep.dir>/outcomes/sweep.json   the command line and the words of each job
<hydra.sweep.dir>/outcomes/N.json       how job N stands: running, done, failed, or not begun after another failed
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quantbooth.runtime.errors import UserError

__all__ = ["DONE", "FAILED", "NOT_BEGUN", "RUNNING", "Outcome", "Sweep", "begin", "read_sweep", "records", "settings"]

RUNNING, DONE, FAILED, NOT_BEGUN = "running", "done", "failed", "not begun"
FOLDER, ABOUT, STOP = "outcomes", "sweep.json", "failed"
BEAT, SILENT = 20.0, 120.0
"""Seconds between signs of life of a job that runs, and those after which one is taken for dead."""
PATH = "path"
DIED = "its process ended without a word (killed, or out of memory)"


@dataclass(frozen=True)
class Outcome:
    """How a job of a sweep stands.

    Attributes:
        number: of the job, from 0, as Hydra counts.
        words: the overrides of the job.
        line: the error, where it failed.
        mistake: whether the error is the user's, not a bug.
        log: the file with the job's log.
        result: what the job returned: the folders that it made or found.
        config: the resolved options of a job that is done.
        host, pid, began: the process, and since when (seconds since 1970).
    """

    number: int
    words: list[str]
    state: str = RUNNING
    line: str | None = None
    mistake: bool = False
    log: str | None = None
    seconds: float | None = None
    result: Any = None
    config: Mapping[str, Any] | None = None
    host: str = ""
    pid: int = 0
    began: float = 0.0

    @property
    def title(self) -> str:
        return f"job {self.number + 1} ({' '.join(self.words)})"


@dataclass(frozen=True)
class Sweep:
    """The record of a sweep.

    Attributes:
        folder: of the sweep, absolute.
        command: the words of its command line, the program first.
        jobs: the overrides of each job; empty where the sweeper chooses them as it goes.
        module: of the command.
        home: the folder in which it was typed.
    """

    folder: Path
    command: list[str]
    jobs: list[list[str]]
    module: str = ""
    home: str = ""

    @property
    def words(self) -> list[str]:
        """The words of the command line that are no flags."""
        return [word for word in self.command[1:] if not word.startswith("-")]

    @property
    def records(self) -> Path:
        return self.folder / FOLDER

    @contextmanager
    def running(self, number: int, words: Sequence[str]) -> Iterator[Outcome]:
        """Write that a job runs, with signs of life within the block; yield its outcome to complete and write."""
        outcome = Outcome(number, list(words), host=socket.gethostname(), pid=os.getpid(), began=time.time())
        self.write(outcome)
        ended = threading.Event()
        beats = threading.Thread(target=_beat, args=(self._file(number), ended), daemon=True)
        beats.start()
        try:
            yield outcome
        finally:
            ended.set()
            beats.join()

    def write(self, outcome: Outcome) -> None:
        """Write how a job stands; a reader sees the former file or this one."""
        _write(self._file(outcome.number), {**asdict(outcome), "result": _encoded(outcome.result)})
        if outcome.state == FAILED:
            (self.records / STOP).touch()

    def find(self, number: int) -> Outcome | None:
        """Return how a job stands; None where it has not begun."""
        file = self._file(number)
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            outcome = Outcome(**{**found, "result": _decoded(found["result"])})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, LookupError) as error:
            raise UserError(f"{file} is damaged ({type(error).__name__}); remove it, and its job runs again") from error
        if outcome.state == RUNNING and _is_dead(outcome, file):
            return replace(outcome, state=FAILED, line=DIED)
        return outcome

    def outcomes(self) -> list[Outcome]:
        """Return how the jobs stand that began or were left out, by their numbers."""
        numbers = sorted(int(file.stem) for file in self.records.glob("*.json") if file.stem.isdigit())
        return [outcome for number in numbers if (outcome := self.find(number)) is not None]

    @property
    def has_failed(self) -> bool:
        """Whether a job has failed."""
        return (self.records / STOP).exists()

    def _file(self, number: int) -> Path:
        return self.records / f"{number}.json"


def begin(sweep: Sweep, again: bool = False) -> None:
    """Begin the record of a sweep in the place of an earlier one, of which `again` keeps the jobs that are done."""
    sweep.records.mkdir(parents=True, exist_ok=True)
    (sweep.records / STOP).unlink(missing_ok=True)
    if again:
        for outcome in sweep.outcomes():
            if outcome.state != DONE:
                (sweep.records / f"{outcome.number}.json").unlink()
        return
    for file in sweep.records.glob("*.json"):
        file.unlink()
    about = {key: value for key, value in asdict(sweep).items() if key != "folder"}
    _write(sweep.records / ABOUT, about)


def read_sweep(folder: Path) -> Sweep:
    """Return the record of a sweep.

    Raises:
        UserError: where there is none, or it is damaged.
    """
    file = folder / FOLDER / ABOUT
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        jobs = [[*words] for words in found["jobs"]]
        return Sweep(folder.absolute(), [*found["command"]], jobs, found["module"], found["home"])
    except OSError as error:
        raise UserError(f"{folder} has no record of a sweep ({FOLDER}/{ABOUT}); name the folder of one") from error
    except (ValueError, TypeError, LookupError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}); run the sweep's command again") from error


def records(folder: Path) -> list[Path]:
    """Return the folders of recorded sweeps: this one, or those in it, the newest last.

    Raises:
        UserError: where there is none.
    """
    places = ("", "*/", "*/*/", "sweeps/*/*/", "logs/sweeps/*/*/", "*/logs/sweeps/*/*/")
    files = {file for place in places for file in folder.glob(f"{place}{FOLDER}/{ABOUT}")}
    if not files:
        raise UserError(f"{folder} has no record of a sweep ({FOLDER}/{ABOUT}); name the folder of one")
    return [file.parents[1] for file in sorted(files, key=lambda file: (file.stat().st_mtime_ns, file))]


def settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the options of a job as plain values, references resolved if all of them can be."""
    try:
        found: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException:  # one that waits for a value
        found = OmegaConf.to_container(cfg)
    return dict(found)


def _write(file: Path, values: Mapping[str, Any]) -> None:
    partial = file.with_suffix(f".{uuid.uuid4().hex[:8]}.partial")
    partial.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(file)


def _encoded(result: Any) -> Any:
    """Return a job's result for JSON: folders, lists of them, numbers and texts; None for what is none of these."""
    if isinstance(result, Path):
        return {PATH: str(result)}
    if isinstance(result, list | tuple):
        return [_encoded(one) for one in result]
    return result if isinstance(result, str | int | float | None) else None


def _decoded(result: Any) -> Any:
    if isinstance(result, list):
        return [_decoded(one) for one in result]
    return Path(result[PATH]) if isinstance(result, dict) else result


def _beat(file: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(file)


def _is_dead(outcome: Outcome, file: Path) -> bool:
    """Return whether the process of a job has died: one of this host is looked for, another's sign of life is."""
    if outcome.host != socket.gethostname():
        with suppress(OSError):
            return time.time() - file.stat().st_mtime > SILENT
        return False
    try:
        return psutil.Process(outcome.pid).create_time() > outcome.began
    except psutil.Error:
        return True
