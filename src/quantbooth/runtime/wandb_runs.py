"""Weights & Biases: one run for all processes that continue a tuning, and a server that is asked before any work."""

import hashlib
import json
import os
import re
import shutil
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning.pytorch.loggers import WandbLogger

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.progress import say

__all__ = ["GIVEN_REPORT", "GIVEN_SCORES", "RUN_ID", "OneRun", "require_server"]

TIMEOUT = 20
"""Seconds that a W&B server may take to answer."""
SERVER_ERRORS = 500
STEP = "trainer/global_step"
"""The axis of Lightning's curves in W&B."""
LONGEST = 128
RUN_ID = "WANDB_RUN_ID"
"""Environment variable: the id of the only run of this process."""
GIVEN_SCORES, GIVEN_REPORT = ".scored", ".reported"
"""Suffixes of the notes, beside the record of a run's curves, of what else it was given."""


class OneRun(WandbLogger):
    """The W&B run of a tuning, which several processes continue one after another, with each step once.

    Args:
        step: from which it goes on.
        run: its id follows from it, unless WANDB_RUN_ID gives one, as an agent of `wandb sweep` does.
        artifacts: how artifacts of the store are logged.
        name: that is shown; by default `run`.
        given: further arguments of WandbLogger.

    W&B loses what it buffers when its process is killed, and after the last checkpoint steps are computed again. So the
    curves are on record beside the runs: W&B gets the steps that it lacks, and none that it has. Offline it is given
    all of them in a new folder, and the folders of killed processes are removed unless they are uploaded.
    """

    def __init__(self, step: int, run: str, artifacts: str, name: str | None = None, **given: Any) -> None:
        chosen = os.environ.get(RUN_ID) or re.sub(r"[^\w.+=-]", "-", run)[-LONGEST:]
        super().__init__(name=name or run, id=chosen, **given)
        self.first, self.artifacts = step, artifacts
        self._held: int | None = None
        self._lock = FileLock(str(self.record.with_suffix(".lock")))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if step is None:
            super().log_metrics(metrics, step)
            return
        if self._held is None:
            self._held = self._go_on()
            self.record.with_suffix(GIVEN_SCORES).unlink(missing_ok=True)  # of an earlier tuning
        if numbers := {key: value for key, value in metrics.items() if isinstance(value, int | float)}:
            with self.record.open("a", encoding="utf-8") as file:
                file.write(json.dumps([step, numbers]) + "\n")
        if step > self._held:
            super().log_metrics(metrics, step)

    def has(self, scores: str) -> bool:
        """Return whether the run was given these scores before, or cannot be given them; else it is open for them.

        A run that another process has open is left to it. Offline, a run with other scores is left as it is: opening it
        again would lose its pictures.
        """
        if not self._is_own():
            return True
        digest, given = _digest(scores), self._noted(GIVEN_SCORES)
        if digest == given:
            return True
        if given is not None and self._held is None and self._offline:
            say(
                f"the W&B run {self._id} was written offline with other scores, so it does not get these; log them "
                "online, or with logger=csv"
            )
            return True
        if self._held is None:
            self._held = self._go_on()
        return False

    def has_report(self, tables: str) -> bool:
        """Return whether the run was given a report with these tables before."""
        return self._noted(GIVEN_REPORT) == _digest(tables)

    def note(self, kind: str, text: str) -> None:
        """Note that the run was given scores (GIVEN_SCORES) or tables of a report (GIVEN_REPORT), once it was."""
        self.record.parent.mkdir(parents=True, exist_ok=True)
        self.record.with_suffix(kind).write_text(_digest(text))

    def release(self) -> None:
        """Let other processes open the run."""
        self._lock.release()

    def _is_own(self) -> bool:
        """Return whether this process may open the run: no other one that lives has it open."""
        self.record.parent.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout):
            self._lock.acquire(timeout=0)
        return self._lock.is_locked

    def _noted(self, kind: str) -> str | None:
        file = self.record.with_suffix(kind)
        return file.read_text() if file.is_file() else None

    @property
    def record(self) -> Path:
        """The file with a row [step, values] for each step of the curves."""
        return Path(str(self.save_dir), "wandb-curves", f"{self._id}.jsonl")

    def _go_on(self) -> int:
        """Give W&B the earlier steps that it lacks; return the last step that it has from other processes."""
        self._is_own()
        earlier = [(step, values) for step, values in self._rows() if step < self.first]
        partial = self.record.with_suffix(f".{os.getpid()}.partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in earlier), encoding="utf-8")
        partial.rename(self.record)
        run, held = self.experiment, -1
        if self._offline:
            self._remove_killed(Path(run.dir).parent)
        else:
            held = int(run.summary.get(STEP, -1))
        for step, values in earlier:
            if step > held:
                super().log_metrics(values, step)
        return held

    def _rows(self) -> list[tuple[int, dict[str, float]]]:
        rows = []
        for line in self.record.read_text(encoding="utf-8").splitlines() if self.record.is_file() else []:
            try:
                step, values = json.loads(line)
                rows.append((int(step), dict(values)))
            except (ValueError, TypeError):
                continue  # the line in which a process was killed
        return rows

    def _remove_killed(self, own: Path) -> None:
        for folder in own.parent.glob("offline-run-*"):
            mine = re.fullmatch(r"offline-run-\d+_\d+-(.*)", folder.name)
            if mine and mine[1] == self._id and folder.resolve() != own.resolve() and not any(folder.glob("*.synced")):
                shutil.rmtree(folder, ignore_errors=True)


def require_server() -> None:
    """Ask the W&B server once a process whether it is there, within TIMEOUT seconds.

    W&B itself would wait for minutes, in every job of a sweep.

    Raises:
        UserError: when it does not answer, or answers with an error of its own.
    """
    from wandb.sdk import wandb_setup  # noqa: PLC0415  # optional: the extra [wandb]

    url = os.environ.get("WANDB_BASE_URL") or str(wandb_setup.singleton().settings.base_url)
    if (failure := _failure(url)) is not None:
        raise UserError(
            f"the W&B server {url} cannot be reached ({failure}); set WANDB_MODE=offline to log into a folder that "
            "wandb sync uploads later, or choose logger=csv"
        )


@cache
def _failure(url: str) -> str | None:
    found: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT):
                found.append(None)
        except urllib.error.HTTPError as error:
            found.append(f"it answers {error.code}" if error.code >= SERVER_ERRORS else None)
        except urllib.error.URLError as error:
            found.append(None if isinstance(error.reason, ssl.SSLError) else str(error.reason))  # it is there
        except (OSError, ValueError) as error:
            found.append(str(error))

    asking = threading.Thread(target=ask, daemon=True)  # looking up a name obeys no timeout
    asking.start()
    asking.join(TIMEOUT)
    return found[0] if found else f"no answer in {TIMEOUT} seconds"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
