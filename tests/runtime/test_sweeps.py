"""All jobs of a sweep are checked before the first one computes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.sweeps import Together

APP = """
from pathlib import Path
import quantbooth.runtime.cli, quantbooth.runtime.explain
from quantbooth.runtime.cli import Command
from quantbooth.runtime.errors import UserError

quantbooth.runtime.cli.conf_dir = quantbooth.runtime.explain.conf_dir = lambda: Path(__file__).parent / "conf"

def check_job(cfg):
    if cfg.tuner.steps == 3 and cfg.seed == 1:
        raise UserError("tuner.steps=3 does not go with seed=1")
    if cfg.tuner.steps == 5:
        raise ValueError("a bug of the check")
    return {"protocol": cfg.tag} if cfg.tag else None

def job(cfg):
    print("ran", cfg.seed, cfg.tuner.steps, flush=True)

if __name__ == "__main__":
    Command(__name__, "config")()
"""
CONFIG = """
defaults:
  - override hydra/job_logging: disabled
  - override hydra/hydra_logging: disabled
  - _self_
seed: 0
tag: null
tuner: {steps: 10}
hydra:
  sweep: {dir: sweeps/now, subdir: "${hydra.job.num}"}
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("app")
    (folder / "app.py").write_text(APP)
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "config.yaml").write_text(CONFIG)
    sweep = "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {tuner.steps: '1,3'}}}"
    (folder / "conf" / "experiment" / "own.yaml").write_text(sweep)
    (folder / "conf" / "experiment" / "other.yaml").write_text("# @package _global_\nseed: 1")
    return folder


def run(app: Path, *words: str) -> subprocess.CompletedProcess[str]:
    given = {key: value for key, value in os.environ.items() if key not in ("HYDRA_FULL_ERROR", "QUANTBOOTH_DEBUG")}
    typed = [sys.executable, "app.py", *words]
    return subprocess.run(typed, cwd=app, env=given, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "job", "named"),
    [
        (["-m", "seed=0,1", "tuner.steps=2,3"], "job 4 (seed=1 tuner.steps=3)", "does not go with"),
        (["+experiment=own", "seed=1"], "job 2 (tuner.steps=3 +experiment=own seed=1)", "does not go with"),
        (["-m", "hydra.sweeper.max_batch_size=1", "seed=0,1", "tuner.steps=3"], "job 2 (seed=1", "does not go with"),
        (["-m", "tuner.steps=2,'${seed}'"], "job 2 (tuner.steps='${seed}')", "tuner.steps must be"),  # the schema
        (["-m", "+experiment=glob(ot*)", "tuner.steps=3"], "job 1 (+experiment=other", "does not go with"),
        (["-m", "tag=a,b,b"], "job 2 (tag=b) and 1 more ", "one protocol, got a of an earlier job and b"),
    ],
)
def test_a_refused_job_ends_a_sweep_before_the_first_computes(
    app: Path, words: list[str], job: str, named: str
) -> None:
    done = run(app, *words)
    assert (done.returncode, done.stdout) == (2, "")
    told = [line for line in done.stderr.splitlines() if line.startswith("quantbooth:")]
    assert len(told) == 1 and told[0].startswith(f"quantbooth: {job}") and named in told[0]
    assert not (app / "sweeps").exists()


def test_other_jobs_run_and_a_bug_of_a_check_is_left_to_its_job(app: Path) -> None:
    done = run(app, "-m", "seed=1", "tuner.steps=2,5")
    assert (done.returncode, done.stdout) == (0, "ran 1 2\nran 1 5\n")


@pytest.mark.parametrize("word", ["seed=range(0,0)", "+experiment=glob(nothing*)"])
def test_a_sweep_without_a_job_is_refused_by_its_option(app: Path, word: str) -> None:
    done = run(app, "-m", "tuner.steps=2,3", word)
    assert done.returncode == 2 and f"quantbooth: {word} has no value" in done.stderr


def test_both_passes_over_many_jobs_are_counted(app: Path) -> None:
    told = run(app, "-m", "seed=range(0,9)", "tuner.steps=2").stderr
    assert all(re.search(rf"{work} all jobs: 9/9", told) for work in ("composing", "checking"))


def test_one_job_is_not_checked_twice(app: Path) -> None:
    assert run(app, "seed=1", "tuner.steps=3").stdout == "ran 1 3\n"  # its job checks it


def test_jobs_that_share_a_document_share_what_it_needs() -> None:
    together = Together()
    together.require({"base": "toy"})
    together.require({"base": "toy", "scorer": "a"})
    together.require({})
    with pytest.raises(UserError, match="one scorer, got a of an earlier job and b"):
        together.require({"scorer": "b"})
