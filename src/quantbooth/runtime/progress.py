"""Progress on the terminal: a bar of one line for each loop, which job of a sweep it belongs to, what was found made.

All of it goes to stderr. A bar is shown on terminals only, and is gone when its loop ends.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Sized
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

__all__ = ["label", "new_bar", "progress", "say_found", "shortened"]

Item = TypeVar("Item")
FIGURES = "figures"
"""The field of a task with what is shown at the end of its line."""


def progress(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items, while a bar shows how many of them are done; `total` is their number where they have no len."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with new_bar() as bar:
        task = bar.add_task(label(what), total=total)
        for item in items:
            yield item
            bar.advance(task)


def new_bar() -> Progress:
    """Return an empty bar: label, bar, done/total, time left, figures, all in one line however long the label is."""
    console = Console(stderr=True)

    def whole() -> Column:
        return Column(no_wrap=True)  # where a line is too wide, rich takes from columns that may wrap: the label alone

    return Progress(
        _Label(Column(ratio=1)),
        BarColumn(bar_width=10, table_column=whole()),
        MofNCompleteColumn(table_column=whole()),
        _TimeLeft(whole()),
        _Figures(whole()),
        console=console,
        transient=True,
        expand=True,
        disable=not console.is_terminal,
    )


def label(what: str) -> str:
    """Return what a bar says: the piece of work, within a sweep after "job k of n"."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return what
    jobs = _jobs()
    return f"job {HydraConfig.get().job.num + 1}{f' of {jobs}' if jobs else ''}: {what}"


def shortened(text: str, width: int) -> str:
    """Return the text, of one longer than `width` its two ends: the first words and the fingerprint tell the most."""
    if len(text) <= width:
        return text
    kept = max(width - 1, 0)
    return text[: kept - kept // 2] + "…"[:width] + text[len(text) - kept // 2 :]


@cache
def say_found(artifact: Path) -> Path:
    """Say in a line that an artifact was made before, once in a process however often it is met; return its folder."""
    sys.stderr.write(f"found: {artifact.parent.name.replace('_', ' ')} {artifact.name}\n")
    return artifact


def _jobs() -> int | None:
    """Return how many jobs the sweep has, which Hydra does not tell them; None where that is not the basic sweeper's.

    Computed as that sweeper does: the product of the numbers of values over all options of the command line.
    """
    sweeper = HydraConfig.get().sweeper
    if not str(sweeper.get("_target_")).endswith("BasicSweeper"):
        return None
    words = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    words += [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    try:
        found = {each.get_key_element(): each for each in OverridesParser.create().parse_overrides(words)}
        values = [list(each.sweep_string_iterator()) for each in found.values() if each.is_sweep_override()]
    except HydraException:
        return None
    jobs = math.prod(len(each) for each in values)
    # a launcher of its own processes leaves them another command line, which may say too little
    return jobs if jobs > HydraConfig.get().job.num else None


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
        left = "-:--:--" if task.time_remaining is None else str(timedelta(seconds=math.ceil(task.time_remaining)))
        return Text(f"{left} left", style="progress.remaining")


class _Figures(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get(FIGURES, "")))
