"""The record of a sweep: what a job writes is what is read, and a job whose process is gone is no longer running."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from quantbooth.runtime import outcomes
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.outcomes import (
    DIED,
    DONE,
    FAILED,
    NOT_BEGUN,
    RUNNING,
    Outcome,
    Sweep,
    begin,
    read_sweep,
    settings,
)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    made = Sweep(tmp_path, ["quantbooth", "-m", "seed=0,1"], [["seed=0"], ["seed=1"]])
    begin(made)
    return made


def test_what_is_written_is_read(sweep: Sweep) -> None:
    done = Outcome(1, ["seed=1"], DONE, result=[Path("a/b"), "c", 3], config={"seed": 1, "none": None}, seconds=0.5)
    sweep.write(done)
    assert read_sweep(sweep.folder) == sweep
    assert (sweep.find(0), sweep.find(1), sweep.outcomes()) == (None, done, [done])
    assert sorted(file.name for file in sweep.records.iterdir()) == ["1.json", "sweep.json"]


def test_a_failure_is_known_to_all_jobs_until_the_sweep_begins_again(sweep: Sweep) -> None:
    assert not sweep.has_failed
    for number, state in enumerate((DONE, FAILED, NOT_BEGUN)):
        sweep.write(Outcome(number, [], state))
    assert sweep.has_failed
    begin(sweep, again=True)
    assert not sweep.has_failed and [one.state for one in sweep.outcomes()] == [DONE]
    begin(sweep)
    assert sweep.outcomes() == []


def test_a_job_runs_as_long_as_its_process_lives(sweep: Sweep) -> None:
    with sweep.running(0, ["seed=0"]) as outcome:
        assert (outcome.pid, outcome.host) == (os.getpid(), socket.gethostname())
        assert sweep.find(0) == outcome
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for dead in (replace(outcome, pid=gone.pid), replace(outcome, began=outcome.began - 10**9)):
        sweep.write(dead)
        assert sweep.find(0) == replace(dead, state=FAILED, line=DIED)


def test_a_job_of_another_host_gives_signs_of_life(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "BEAT", 0.02)
    with sweep.running(0, []) as outcome:
        old = time.time() - 1000
        os.utime(sweep.records / "0.json", (old, old))
        while (sweep.records / "0.json").stat().st_mtime < old + 500:
            time.sleep(0.02)
    elsewhere = replace(outcome, host="another", pid=1)
    sweep.write(elsewhere)
    assert sweep.find(0) == elsewhere and elsewhere.state == RUNNING
    os.utime(sweep.records / "0.json", (old, old))
    assert sweep.find(0) == replace(elsewhere, state=FAILED, line=DIED)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"number": 0, "words": [], "result": null, "nope": 1}'])
def test_a_damaged_record_is_named(sweep: Sweep, text: str) -> None:
    (sweep.records / "0.json").write_text(text)
    (sweep.records / "sweep.json").write_text(text.replace('"words"', '"jobs"'))
    for read in (lambda: sweep.find(0), lambda: read_sweep(sweep.folder)):
        with pytest.raises(UserError, match="json is damaged .*; r"):
            read()


def test_a_folder_without_a_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path} has no record of a sweep"):
        read_sweep(tmp_path)


def test_references_are_resolved_where_they_can_be() -> None:
    assert settings(OmegaConf.create({"a": 1, "b": "${a}"})) == {"a": 1, "b": 1}
    assert settings(OmegaConf.create({"a": "???", "b": "${a}"})) == {"a": "???", "b": "${a}"}
