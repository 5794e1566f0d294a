"""quantbooth --retry-failed FOLDER: the command line of a sweep again, for its jobs that failed or were not begun.

Words of Hydra may follow: `hydra/launcher=joblib`.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.outcomes import RUNNING, Sweep, read_sweep

__all__ = ["FLAG", "require_same", "retried"]

FLAG = "--retry-failed"


def retried(words: Sequence[str], module: str) -> tuple[list[str], Sweep | None]:
    """Return the words of a command line and no sweep; where they ask to retry one, its words and the sweep.

    Raises:
        UserError: where that sweep cannot be run again from here.
    """
    asked = [word for word in words if word.partition("=")[0] == FLAG]
    if not asked:
        return [*words], None
    first, given, value = words[0].partition("=")
    rest = words[1:] if given else words[2:]
    folder = value if given else "".join(words[1:2])
    if first != FLAG or not folder or folder.startswith("-"):
        raise UserError(f"{FLAG} comes first, with the folder of a sweep: {FLAG} outputs/logs/sweeps/DAY/TIME")
    if other := [word for word in rest if not word.startswith(("hydra.", "hydra/"))]:
        raise UserError(f"{FLAG} has the options of the sweep, and of Hydra alone more, got {other[0]!r}; leave it out")
    sweep = read_sweep(Path(folder))
    if sweep.module != module:
        raise UserError(f"{folder} is a sweep of {shlex.join(sweep.command[:1])}; run {FLAG} with that command")
    if Path.cwd() != Path(sweep.home):
        raise UserError(f"{folder} has paths that count from {sweep.home}; go there first: cd {sweep.home}")
    if not sweep.jobs:
        raise UserError(f"the sweeper of {folder} chose its jobs as it went; run its command again")
    for one in sweep.outcomes():
        if one.state == RUNNING:
            raise UserError(f"{one.title} of {folder} still runs, as process {one.pid} on {one.host}; wait for it")
    place = str(sweep.folder).replace("\\", "\\\\").replace("'", "\\'")
    return [*sweep.command[1:], *rest, f"hydra.sweep.dir='{place}'"], sweep


def require_same(sweep: Sweep, jobs: Sequence[Sequence[str]]) -> None:
    """Refuse to go on with a sweep whose command line has other jobs now.

    Raises:
        UserError: naming the first job that differs.
    """
    for number, (one, other) in enumerate(zip(sweep.jobs, jobs, strict=False)):
        if [*one] != [*other]:
            raise UserError(f"job {number + 1} was {' '.join(one)} and is {' '.join(other)} now; run the command anew")
    if len(jobs) != len(sweep.jobs):
        raise UserError(f"the sweep had {len(sweep.jobs)} jobs and has {len(jobs)} now; run its command anew")
