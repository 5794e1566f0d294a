"""The beginning and the end of a sweep in the process that was typed: its jobs are checked, and told who failed."""

import gc
import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from quantbooth.runtime.ending import said
from quantbooth.runtime.explain import explain, is_mistake
from quantbooth.runtime.jobs import Job, quiet_libraries, show_traceback
from quantbooth.runtime.options import require_valid
from quantbooth.runtime.outcomes import FAILED, NOT_BEGUN, Outcome, Sweep, begin
from quantbooth.runtime.progress import progress
from quantbooth.runtime.retrying import FLAG, require_same
from quantbooth.runtime.searching import ends_of_search, require_search
from quantbooth.runtime.sweeps import Together, config_of, known_jobs
from quantbooth.runtime.used import program_name

__all__ = ["begin_sweep", "show_failures"]

FEW = 8
"""Jobs that are composed in a few seconds."""


def begin_sweep(job: Job) -> None:
    """Check all jobs of a sweep, as far as they are known, and begin its record; end the command if one is refused."""
    jobs = known_jobs()
    if job.again is not None:
        require_same(job.again, jobs)
    titled = [(Outcome(number, words).title, words) for number, words in enumerate(jobs)]
    if ends := [] if jobs else ends_of_search():
        require_search(config_of(ends[0]))
        titled = [(f"a trial ({' '.join(words)})", words) for words in ends]
    _check(job, titled)
    folder = Path(HydraConfig.get().sweep.dir).absolute()
    made = Sweep(folder, [program_name(job.module.rpartition(".")[2]), *job.words], jobs, job.module, job.home[2])
    job.sweep = made if job.again is None else job.again
    begin(job.sweep, again=job.again is not None)


def _check(job: Job, titles: Sequence[tuple[str, list[str]]]) -> None:
    """Check jobs together; a bug is left to the job that has it, and what Hydra cannot compose is raised.

    Args:
        job: of the command.
        titles: the title and the overrides of each.
    """
    together, refused = Together(), dict[str, list[str]]()

    def tried(title: str, check: Callable[[], object]) -> None:
        try:
            check()
        except Exception as error:
            if is_mistake(error):
                show_traceback(error)
                refused.setdefault(explain(error), []).append(title)

    def compare(check: Callable[[DictConfig], dict[str, object] | None], cfg: DictConfig) -> None:
        together.require(check(cfg) or {})

    found = []
    for title, words in progress(titles, "composing all jobs") if len(titles) > FEW else titles:
        found.append((title, config_of(words)))
        tried(title, partial(require_valid, found[-1][1], job.config_name))
    check = None if refused or not titles else getattr(importlib.import_module(job.module), "check_job", None)
    quiet_libraries()
    if check is not None:
        for title, cfg in progress(found, "checking all jobs"):
            tried(title, partial(compare, check, cfg))
            gc.collect()
            gc.freeze()  # libraries and what all jobs share: the next collection looks at what is new
    for line, (first, *others) in refused.items():
        also = f" and {len(others)} more" if others else ""
        said(f"{first}{also} refused before any job began: {line}")
    if refused:
        sys.exit(2)


def show_failures(sweep: Sweep, outcomes: Sequence[Outcome]) -> int:
    """Print the jobs of a sweep that are not done; return the exit code: 0, 2 after mistakes alone, 1 after a bug."""
    failed = [one for one in outcomes if one.state == FAILED]
    left_out = {one.number: one for one in outcomes if one.state == NOT_BEGUN}
    known = {one.number for one in outcomes}
    left_out |= {number: Outcome(number, words) for number, words in enumerate(sweep.jobs) if number not in known}
    if not failed and not left_out:
        return 0
    others = f", not begun: {len(left_out)}" if left_out else ""
    rest = " (the others finished)" if len(failed) + len(left_out) < max(len(sweep.jobs), len(outcomes)) else ""
    said(f"failed jobs: {len(failed)}{others}{rest}")
    for one in failed:
        said(f"  {one.title}: {one.line}{f'; log: {one.log}' if one.log else ''}")
    for _, one in sorted(left_out.items()):
        said(f"  {one.title} was not begun")
    again = f"{sweep.command[0]} {FLAG} {sweep.folder}" if sweep.jobs else "the same command, which finds what is done"
    said(f"to run these again: {again}")
    return 2 if all(one.mistake for one in failed) else 1
