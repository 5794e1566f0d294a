"""A run: workers take turns, one that fails does not stop the others, groups fit, and a mistake is one line."""

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.bench import run
from experiments.bench.budget import groups, need_gb
from experiments.bench.cases import MODULES, Case, Setting, reference, units
from experiments.bench.results import read
from experiments.bench.worker import Worker, serve
from experiments.bench.worker_process import WorkerFailed, WorkerProcess
from quantbooth.runtime.errors import UserError

BUILT = {"import_rss_gb": 0.5, "build_rss_gb": 1.0, "trainable": 7, "file_mb": 1.0, "base_file_mb": 250.0}
STEP = {"forward": 1.0, "backward": 2.0, "optimizer": 0.5, "peak_rss_gb": 2.0, "cuda_peak_gb": None}
ANSWERS: dict[str, dict[str, Any]] = {"build": BUILT, "step": STEP, "kept": {"kept_gb": 0.25}}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Workers that answer at once, LoRA's failing at its second step; what was asked of whom, in order."""
    log: list[tuple[str, str]] = []

    class Answering:
        def __init__(self, case: Case) -> None:
            self.case = case

        def __enter__(self) -> "Answering":
            return self

        def __exit__(self, *error: object) -> None:
            self.end()

        def ask(self, command: str) -> dict[str, Any]:
            log.append((self.case.method, command))
            if self.case.method == "lora" and log.count(("lora", "step")) > 1:
                raise WorkerFailed("out of luck")
            return ANSWERS[command]

        def end(self) -> None:
            log.append((self.case.method, "end"))

    monkeypatch.setattr(run, "WorkerProcess", Answering)
    return log


def silent() -> Console:
    return Console(file=StringIO())


def test_workers_take_turns_and_one_that_fails_leaves_the_others_alone(
    asked: list[tuple[str, str]], tiny: Setting
) -> None:
    rows = run.measured([reference(tiny), Case(tiny, "lora"), Case(tiny, "float")], 2, 1, silent())
    methods = ["quantbooth", "lora", "float"]
    assert asked[:3] == [(method, "build") for method in methods]
    assert asked[3:6] == [(method, "step") for method in methods]
    assert asked[6:10] == [("quantbooth", "step"), ("lora", "step"), ("lora", "end"), ("float", "step")]
    assert asked[10:12] == [("quantbooth", "step"), ("float", "step")]
    assert [row["reason"] for row in rows] == [None, "out of luck", None]
    assert [row["step_s"] for row in rows] == [3.5, None, 3.5]


def test_rows_are_written_and_not_measured_twice(
    asked: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "commit", lambda: "abc")
    command = ["run", "--model", "tiny", "--latents", "8", "--checkpointing", "off", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, "--methods", "float", "quantbooth_mixed_zones"])
    assert run.main() == 0
    rows = read(tmp_path / "results.json")
    assert sorted((row["method"], row["batch"], row["sets"]) for row in rows) == [
        ("float", 1, None),
        ("quantbooth", 1, 1),
        ("quantbooth", 3, 1),
        ("quantbooth_mixed_zones", 3, 3),
    ]
    assert all(row["reference_steps_s"] == [3.5] * 3 and row["commit"] == "abc" for row in rows)
    assert (tmp_path / "results.md").read_text().startswith("# Memory and speed")
    asked.clear()
    assert run.main() == 0
    assert asked == []
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--again"])
    assert run.main() == 0
    assert asked


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--latents", "12"], "latents must be a multiple of 8"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--memory-gb", "0.1"], "needs about"),
        (["--device", "abacus"], "device must be cpu"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    says: str,
    asked: list[tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["run", "--model", "tiny", "--latents", "8", "--methods", "float", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, *arguments])
    assert run.main() == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert asked == []


def test_groups_fit_hold_the_reference_first_and_miss_nothing() -> None:
    setting = Setting("sd15", 32, False)
    found, left_out = groups(units(setting, MODULES), room_gb := 22.0)
    assert left_out == {}
    assert all(group[0] == reference(setting) for group in found)
    assert all(sum(map(need_gb, group)) <= room_gb for group in found)
    assert len(found) > 1
    members = [case for group in found for case in group[1:]]
    everything = {case for unit in units(setting, MODULES) for case in unit}
    assert len(members) == len(set(members))
    assert {reference(setting), *members, *left_out} == everything
    for one, many in [unit for unit in units(setting, MODULES) if len(unit) > 1]:
        assert any(one in group and many in group for group in found)


def test_a_case_that_fits_nowhere_is_left_out_and_says_why() -> None:
    setting = Setting("sdxl", 32, False)
    found, left_out = groups([(Case(setting, "float"),), (Case(setting, "qlora", 4),)], 22.0)
    assert found == [[reference(setting), Case(setting, "qlora", 4)]]
    assert left_out[Case(setting, "float")].endswith("beside the reference, 22.0 GB were free")
    with pytest.raises(UserError, match=r"quantbooth W4 .* needs about .* GB of memory, 1.0 GB are free"):
        groups([(Case(setting, "float"),)], 1.0)


def test_a_worker_answers_each_line_and_ends_after_an_error(tiny: Setting) -> None:
    answers = StringIO()
    worker = Worker(Case(tiny, "quantbooth", 4, 1, 1))
    assert serve(worker, StringIO("build\nstep\nkept\n"), answers) == 0
    built, step, kept = (json.loads(line) for line in answers.getvalue().splitlines())
    assert built["trainable"] > 0
    assert built["file_mb"] < built["base_file_mb"]
    assert step["peak_rss_gb"] > 0
    assert step["cuda_peak_gb"] is None
    assert kept["kept_gb"] > 0
    answers = StringIO()
    assert serve(Worker(Case(tiny, "quantbooth", 5, 1, 1)), StringIO("build\nstep\n"), answers) == 1
    assert json.loads(answers.getvalue())["error"].startswith("UserError: layer ")


@pytest.mark.slow
def test_a_worker_is_a_process_of_its_own(tiny: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with WorkerProcess(Case(tiny, "floor")) as worker:
        assert worker.ask("build")["trainable"] == 0
        assert worker.ask("step")["optimizer"] >= 0
        with pytest.raises(WorkerFailed, match="KeyError: 'stop'"):
            worker.ask("stop")
        with pytest.raises(WorkerFailed, match="ended with code 1"):
            worker.ask("step")


@pytest.mark.slow
def test_the_program_starts_from_the_command_line(repository: Path) -> None:
    command = [sys.executable, "-m", "experiments.bench.run", "--help"]
    found = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert "--checkpointing" in found.stdout
