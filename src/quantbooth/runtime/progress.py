"""Progress on stderr: a one-line bar per loop with the job of a sweep, and a line per artifact that was found finished.

On a terminal a bar disappears when its loop ends. If stderr is a file, one line reports the end of each loop.
"""

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TypeVar

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from quantbooth.runtime.sweeps import in_sweep, known_jobs

__all__ = ["LoopBar", "duration", "label", "progress", "say", "say_found", "say_once", "shortened"]

Item = TypeVar("Item")
FIGURES = "figures"
"""The field of a task with the text at the end of its line."""


def progress(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items with a bar of the finished ones; `total` is their number if they have no `len`."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with LoopBar(what, total) as bar:
        for item in items:
            yield item
            bar.advance()


class LoopBar:
    """The bar of one loop, as a context manager; it fits one line of any width.

    Args:
        what: the label.
        total: number of steps; None if unknown.
    """

    def __init__(self, what: str, total: int | None) -> None:
        self.what, self.started = label(what), time.monotonic()
        console = Console(stderr=True)
        self.terminal = console.is_terminal
        self.bar = Progress(*_columns(), console=console, transient=True, expand=True, disable=not self.terminal)
        self.task = self.bar.add_task(self.what, total=total)

    def __enter__(self) -> "LoopBar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        if not self.terminal:
            task = self.bar.tasks[self.task]
            count = f"{task.completed:.0f}" + ("" if task.total is None else f"/{task.total:.0f}")
            sys.stderr.write(f"{self.what}: {count} in {duration(time.monotonic() - self.started)}\n")

    def advance(self, steps: int = 1) -> None:
        """Count steps."""
        self.bar.advance(self.task, steps)

    def show(self, figures: str) -> None:
        """Show a text at the end of the line."""
        self.bar.update(self.task, **{FIGURES: figures})  # type: ignore[arg-type]


def label(what: str) -> str:
    """Return the label of a bar: the work, within a sweep after "job k of n"."""
    if not in_sweep() or OmegaConf.is_missing(HydraConfig.get().job, "num"):  # before the first job
        return what
    jobs = len(known_jobs())
    return f"job {HydraConfig.get().job.num + 1}{f' of {jobs}' if jobs else ''}: {what}"


def shortened(text: str, width: int) -> str:
    """Return a text of at most `width` characters: of a longer one both ends."""
    if len(text) <= width:
        return text
    kept = max(width - 1, 0)
    return text[: kept - kept // 2] + "…"[:width] + text[len(text) - kept // 2 :]


def say(line: str) -> None:
    """Print a line about the progress of work."""
    sys.stderr.write(f"{line}\n")


def say_found(artifact: Path | None) -> Path | None:
    """Print one line if the artifact was found finished, once per process; return its folder."""
    if artifact is not None:
        say_once(f"found: {artifact.parent.name.replace('_', ' ')} {artifact.name}")
    return artifact


@cache
def say_once(line: str) -> None:
    """Print a line once per process."""
    sys.stderr.write(f"{line}\n")


def _columns() -> list[ProgressColumn]:
    """Label, bar, done/total, time left, figures."""

    def whole() -> Column:
        return Column(no_wrap=True)  # rich shrinks columns that may wrap, here the label only

    return [
        _Label(Column(ratio=1)),
        BarColumn(bar_width=10, table_column=whole()),
        MofNCompleteColumn(table_column=whole()),
        _TimeLeft(whole()),
        _Figures(whole()),
    ]


def duration(seconds: float) -> str:
    """Return seconds as h:mm:ss, rounded up."""
    return str(timedelta(seconds=math.ceil(seconds)))


class _Label(ProgressColumn):
    """The label, in the width that the other columns leave."""

    def __init__(self, column: Column) -> None:
        super().__init__(column)

    def render(self, task: Task) -> "_Shortened":
        return _Shortened(task.description)


class _Shortened:
    def __init__(self, text: str) -> None:
        self.text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(shortened(self.text, options.max_width))


class _TimeLeft(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        left = "-:--:--" if task.time_remaining is None else duration(task.time_remaining)
        return Text(f"{left} left", style="progress.remaining")


class _Figures(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get(FIGURES, "")))
