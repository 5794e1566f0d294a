"""A sweep whose jobs run in other processes ends as one in this process: report, failures, exit code."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pool_launcher import POOL, write_pool_launcher
from quantbooth.runtime.outcomes import Sweep, begin

pytestmark = pytest.mark.chain

APP = """
import os, signal, sys
from pathlib import Path
import quantbooth.runtime.cli, quantbooth.runtime.explain
from quantbooth.runtime.cli import Command
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.progress import label
from quantbooth.runtime.sweeps import swept

quantbooth.runtime.cli.conf_dir = quantbooth.runtime.explain.conf_dir = lambda: Path(__file__).parent / "conf"

def check_job(cfg):
    if cfg.seed == 9:
        raise UserError("seed=9 is refused")

def job(cfg):
    if cfg.tag == "broken" and cfg.seed == 2 and Path("broken").exists():
        raise UserError("broken")
    if cfg.tag == "mistake":
        raise UserError("no pictures")
    if cfg.tag == "bug":
        raise ValueError("a bug")
    if cfg.tag == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    with open("ran.txt", "a") as file:
        file.write(f"{os.getpid()} {label('x')} {swept()}\\n")
    return [Path("made") / str(cfg.seed)]

def conclude(jobs):
    print("concluded", [(cfg.seed, cfg.pictures, *map(str, paths)) for cfg, paths in jobs], flush=True)
"""
RUN = """
if __name__ == "__main__":
    from app import Command
    Command("app", "config")()
"""
CONFIG = """
defaults:
  - override hydra/job_logging: default
  - override hydra/hydra_logging: disabled
  - _self_
seed: 0
tag: null
fail_fast: false
pictures: "of-${seed}-${tag}"
hydra:
  sweep: {dir: 'sweeps/${now:%Y}', subdir: "${hydra.job.num}"}
  job_logging: {root: {handlers: [file]}}
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text(CONFIG)
    write_pool_launcher(tmp_path)
    return tmp_path


def run(app: Path, *words: str) -> tuple[int, str, list[str]]:
    """Return the exit code, the output, and what was complained of."""
    given = {key: value for key, value in os.environ.items() if key not in ("HYDRA_FULL_ERROR", "QUANTBOOTH_DEBUG")}
    typed = [sys.executable, "run.py", *words]
    done = subprocess.run(typed, cwd=app, env=given, capture_output=True, text=True, timeout=120)
    told = [line.removeprefix("quantbooth: ") for line in done.stderr.splitlines() if line.startswith("quantbooth: ")]
    return done.returncode, done.stdout, told


def records(app: Path) -> list[dict[str, object]]:
    files = sorted(app.glob("sweeps/*/outcomes/[0-9].json"))
    return [json.loads(file.read_text()) for file in files]


def test_jobs_of_other_processes_are_concluded_as_those_of_this_one(app: Path) -> None:
    in_processes = run(app, "-m", POOL, "seed=1,2,3")
    ran = (app / "ran.txt").read_text().splitlines()
    in_this = run(app, "-m", "seed=1,2,3")
    output = "concluded [(1, 'of-1-None', 'made/1'), (2, 'of-2-None', 'made/2'), (3, 'of-3-None', 'made/3')]\n"
    assert in_processes == in_this == (0, output, [])
    assert sorted(line.partition(" ")[2] for line in ran) == [f"job {n} of 3: x ['seed={n}']" for n in (1, 2, 3)]
    assert len({line.partition(" ")[0] for line in (app / "ran.txt").read_text().splitlines()[3:]}) == 1


@pytest.mark.parametrize("launcher", [POOL, "hydra/launcher=basic"])
def test_failed_jobs_are_listed_with_their_log_and_the_others_are_concluded(app: Path, launcher: str) -> None:
    code, output, told = run(app, "-m", launcher, "tag=a,bug,mistake")
    assert (code, output) == (1, "concluded [(0, 'of-0-a', 'made/0')]\n")
    log = next(app.glob("sweeps/*/1/*.log"))
    assert told[-4:] == [
        "failed jobs: 2 (the others finished)",
        f"  job 2 (tag=bug): ValueError: a bug; log: {log}",
        "  job 3 (tag=mistake): no pictures",
        f"to run these again: quantbooth-app --retry-failed {log.parents[1]}",
    ]
    assert "Traceback" in log.read_text() and "ValueError: a bug" in log.read_text()
    assert [(one["state"], one["mistake"]) for one in records(app)] == [
        ("done", False),
        ("failed", False),
        ("failed", True),
    ]


def test_a_job_whose_process_is_killed_is_listed_and_those_that_are_done_are_concluded(app: Path) -> None:
    code, output, told = run(app, "-m", POOL, "hydra.sweeper.max_batch_size=1", "tag=a,killed,b")
    assert (code, output) == (1, "concluded [(0, 'of-0-a', 'made/0')]\n")
    assert told[:3] == [
        "failed jobs: 1, not begun: 1 (the others finished)",
        "  job 2 (tag=killed): its process ended without a word (killed, or out of memory)",
        "  job 3 (tag=b) was not begun",
    ]
    assert told[4].startswith("the launcher ended the sweep: BrokenProcessPool: ")


def test_no_job_begins_after_a_failed_one_where_failing_is_to_be_fast(app: Path) -> None:
    ended = run(app, "-m", "fail_fast=true", "tag=mistake,a,b")
    assert ended == (
        2,
        "",
        [
            "job 1 (fail_fast=True tag=mistake) failed: no pictures",
            "failed jobs: 1, not begun: 2",
            "  job 1 (fail_fast=True tag=mistake): no pictures",
            "  job 2 (fail_fast=True tag=a) was not begun",
            "  job 3 (fail_fast=True tag=b) was not begun",
            f"to run these again: quantbooth-app --retry-failed {next(app.glob('sweeps/*'))}",
        ],
    )
    code, output, _ = run(app, "-m", "tag=mistake,a")
    assert (code, output) == (2, "concluded [(0, 'of-0-a', 'made/0')]\n")  # the folder's former failure is forgotten


@pytest.mark.parametrize("launcher", [POOL, "hydra/launcher=basic"])
def test_jobs_that_failed_or_were_not_begun_run_again_and_no_others(app: Path, launcher: str) -> None:
    (app / "broken").touch()
    first = run(app, "-m", "fail_fast=true", "seed=1,2,3", "tag=broken")
    assert first[0] == 2 and first[1] == "concluded [(1, 'of-1-broken', 'made/1')]\n"
    kept = [json.loads(file.read_text()) for file in app.glob("sweeps/*/outcomes/0.json")]
    (app / "broken").unlink()
    (app / "ran.txt").unlink()
    (folder,) = app.glob("sweeps/*")
    code, output, told = run(app, "--retry-failed", str(folder), launcher)
    made = [(seed, f"of-{seed}-broken", f"made/{seed}") for seed in (1, 2, 3)]
    assert (code, output, told) == (0, f"concluded {made}\n", [])
    again = [line.split(" ", 1)[1][:10] for line in (app / "ran.txt").read_text().splitlines()]
    assert sorted(again) == ["job 2 of 3", "job 3 of 3"]
    assert records(app)[:1] == kept


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--retry-failed"], "--retry-failed comes first, with the folder of a sweep"),
        (["-m", "--retry-failed", "FOLDER"], "--retry-failed comes first, with the folder of a sweep"),
        (["--retry-failed=FOLDER", "seed=1"], "of Hydra alone more, got 'seed=1'; leave it out"),
        (["--retry-failed", "conf"], "conf has no record of a sweep"),
    ],
)
def test_a_sweep_that_cannot_be_run_again_is_named(app: Path, words: list[str], line: str) -> None:
    begin(Sweep(app / "done", ["quantbooth-app", "-m", "seed=1,2"], [["seed=1"], ["seed=2"]], "app", str(app)))
    code, _, told = run(app, *(word.replace("FOLDER", "done") for word in words))
    assert (code, len(told)) == (2, 1) and line in told[0]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"module": "other"}, "done is a sweep of quantbooth-app; run --retry-failed with that command"),
        ({"home": "/elsewhere"}, "done has paths that count from /elsewhere; go there first: cd /elsewhere"),
        ({"jobs": []}, "the sweeper of done chose its jobs as it went; run its command again"),
        ({"jobs": [["seed=1"], ["seed=7"]]}, "job 2 was seed=7 and is seed=2 now; run the command anew"),
        ({"jobs": [["seed=1"]]}, "the sweep had 1 jobs and has 2 now; run its command anew"),
    ],
)
def test_a_sweep_of_something_else_is_not_run_again(app: Path, change: dict[str, Any], line: str) -> None:
    own = Sweep(app / "done", ["quantbooth-app", "-m", "seed=1,2"], [["seed=1"], ["seed=2"]], "app", str(app))
    begin(replace(own, **change))
    assert run(app, "--retry-failed=done") == (2, "", [line])


def test_a_sweep_that_runs_is_not_run_again(app: Path) -> None:
    own = Sweep(app / "done", ["quantbooth-app", "-m", "seed=1,2"], [["seed=1"], ["seed=2"]], "app", str(app))
    begin(own)
    with own.running(0, ["seed=1"]):
        code, _, told = run(app, "--retry-failed=done")
    assert (code, len(told)) == (2, 1) and told[0].startswith("job 1 (seed=1) of done still runs, as process ")


def test_all_jobs_are_checked_before_a_launcher_begins(app: Path) -> None:
    code, output, told = run(app, "-m", POOL, "seed=1,9")
    assert (code, output) == (2, "")
    assert told == ["job 2 (seed=9) refused before any job began: seed=9 is refused"]
    assert not (app / "sweeps").exists() and not (app / "ran.txt").exists()
