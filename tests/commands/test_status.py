"""quantbooth-status: the jobs of a sweep as they stand, and what is being made in a store."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from quantbooth import programs
from quantbooth.commands import status
from quantbooth.commands.status import find_sweep, of_store, of_sweep, time_left
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.outcomes import DONE, FAILED, NOT_BEGUN, RUNNING, Outcome, Sweep, begin
from quantbooth.store.store import Store

JOBS = [[f"seed={seed}"] for seed in range(4)]


def recorded(folder: Path, *words: str, at: int = 0) -> Sweep:
    made = Sweep(folder.absolute(), ["quantbooth", "-m", *words], JOBS, "quantbooth.commands.pipeline", str(Path.cwd()))
    begin(made)
    os.utime(made.records / "sweep.json", (at, at))
    return made


def test_each_job_is_shown_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = recorded(tmp_path / "outputs" / "logs" / "sweeps" / "day" / "time", "seed=range(4)")
    sweep.write(Outcome(0, JOBS[0], DONE, seconds=3.0))
    sweep.write(Outcome(1, JOBS[1], FAILED, line="no pictures", log="a/b.log"))

    def shown() -> tuple[int, list[str]]:
        monkeypatch.setattr("sys.argv", ["quantbooth-status"])
        with pytest.raises(SystemExit) as ended:
            status.main()
        return int(str(ended.value.code)), capsys.readouterr().out.splitlines()

    with sweep.running(2, JOBS[2]):
        code, lines = shown()
    assert code == 1
    assert lines[0].startswith(f"{sweep.folder}: 4 jobs, 1 done, 1 running, 1 failed, 1 missing; about 0:00:0")
    assert lines[1] == "  failed   job 2 (seed=1): no pictures; log: a/b.log"
    assert lines[2].startswith("  running  job 3 (seed=2): for 0:00:0") and f"process {os.getpid()} on " in lines[2]
    assert lines[3:] == ["  missing  job 4 (seed=3)"]
    sweep.write(Outcome(2, JOBS[2], DONE, seconds=3.0))
    assert shown()[1][-1] == f"to run what failed or is missing: quantbooth --retry-failed {sweep.folder}"
    for number in (1, 3):
        sweep.write(Outcome(number, JOBS[number], DONE, seconds=1.0))
    assert shown() == (0, [f"{sweep.folder}: 4 jobs, 4 done, 0 running, 0 failed, 0 missing"])


def test_the_time_left_is_that_of_the_jobs_to_do_shared_by_those_that_run() -> None:
    done = [Outcome(n, [], DONE, seconds=seconds) for n, seconds in enumerate((8.0, 12.0))]
    runs = [Outcome(2, [], RUNNING, began=96.0), Outcome(3, [], RUNNING, began=70.0)]
    missing = [Outcome(n, [], NOT_BEGUN) for n in (4, 5, 6)]
    assert time_left([*done, *runs, *missing], now=100.0) == (6.0 + 0.0 + 3 * 10.0) / 2
    assert time_left([*done, *missing], now=100.0) == 30.0
    assert time_left([*runs, *missing], now=100.0) is None


def test_a_sweep_is_found_by_its_folder_by_one_above_and_by_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = [tmp_path / "outputs" / "logs" / "sweeps" / "day" / name for name in ("1", "2", "3")]
    sweeps = [
        recorded(place, *words, at=n)
        for n, (place, words) in enumerate(zip(places, (["a=1"], ["a=1"], ["b=2", "c=3"]), strict=True))
    ]
    assert find_sweep([]) == sweeps[2]
    assert find_sweep(["outputs/logs/sweeps"]) == find_sweep(["outputs"]) == sweeps[2]
    assert find_sweep([str(places[0])]) == sweeps[0]
    assert find_sweep(["-m", "a=1"]) == sweeps[1]
    assert find_sweep(["c=3", "b=2"]) == sweeps[2]
    with pytest.raises(UserError, match=r"none of 3 sweeps in outputs has this command line; .*dry_run=true"):
        find_sweep(["-m", "a=2"])
    with pytest.raises(UserError, match="no folder nowhere"):
        find_sweep(["nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no record of a sweep"):
        find_sweep(["empty"])


def test_a_store_shows_what_is_made_now_and_what_was_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing("scores", "done", {"a": 0}, {}, {}):
        pass
    (tmp_path / "unfinished" / "toy-w4-0123456789ab").mkdir(parents=True)
    with store.writing("scores", "mug", {"a": 1}, {}, {}) as draft:
        lines = of_store(tmp_path)
    assert lines[0] == "scores: 1 finished"
    assert lines[1].startswith(f"  running  {draft.destination.name}: process {os.getpid()} on ")
    assert lines[2:] == ["  stopped  toy-w4-0123456789ab: the command that made it goes on with it"]
    assert of_store(tmp_path)[0] == "scores: 2 finished"


def test_a_sweep_whose_jobs_are_chosen_as_it_goes_is_not_offered_again(tmp_path: Path) -> None:
    sweep = replace(recorded(tmp_path), jobs=[])
    lines = of_sweep(sweep, [Outcome(0, ["seed=1"], FAILED, line="x")], now=0.0)
    assert lines[1:] == ["  failed   job 1 (seed=1): x"]


@pytest.mark.parametrize(
    "words",
    [["strategy=s1", "strategy.interval=intervals(0,1000,500)"], ["subject.class_word=dog (old)", "seed=0,1"]],
)
def test_a_sweep_is_found_by_the_words_that_were_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """A sweep records them as Hydra reads them: grids of intervals written out, texts in quotes."""
    monkeypatch.chdir(tmp_path)
    kept = programs.pipeline.words(["-m", *words])[1:]
    assert kept != words
    sweep = recorded(tmp_path / "outputs" / "logs" / "sweeps" / "day" / "time", *kept)
    assert find_sweep(["-m", *words]) == find_sweep(words) == find_sweep(kept) == sweep


def test_the_newest_sweep_is_one_that_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody asks what a sweep would compute, while it runs elsewhere."""
    monkeypatch.chdir(tmp_path)
    sweeps = tmp_path / "outputs" / "logs" / "sweeps" / "day"
    real = recorded(sweeps / "1", "seed=range(4)", at=1)
    dry = recorded(sweeps / "2", "seed=range(4)", "dry_run=True", at=2)
    assert find_sweep([]) == find_sweep(["outputs"]) == real
    assert find_sweep([str(sweeps / "2")]) == find_sweep(["-m", "seed=range(4)", "dry_run=True"]) == dry
    assert "dry_run=true computed nothing" in of_sweep(dry, [], now=0.0)[0]
    assert "dry_run" not in of_sweep(real, [], now=0.0)[0]
