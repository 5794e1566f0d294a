"""The command line: a user error is one line and exit code 2, and a sweep continues after a failure."""

import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from quantbooth.runtime import explain as explaining
from quantbooth.runtime.config import TRUST
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.explain import explain, is_mistake
from quantbooth.runtime.jobs import quiet_libraries

APP = """
import signal, sys, time
from pathlib import Path
import quantbooth.runtime.cli, quantbooth.runtime.explain
from quantbooth.runtime.cli import Command
from quantbooth.runtime.config import build
from quantbooth.runtime.errors import UserError

quantbooth.runtime.cli.conf_dir = quantbooth.runtime.explain.conf_dir = lambda: Path(__file__).parent / "conf"

def refuse():
    raise UserError("bits must be one of 2, 3, 4, 8, got 5")

def job(cfg):
    action = cfg.subject.path
    print("ran", action, cfg.quant.bits, flush=True)
    if action == "empty":
        raise UserError("no pictures in 'empty';\\n  put some there")
    if action == "defect":
        raise ValueError("a defect")
    if action == "gone":
        Path(__file__).with_name("gone.png").read_bytes()
    if action == "full":
        Path("/dev/full").write_text("x" * 99999)
    if action == "target":
        build(cfg.strategy, dict)
    if action == "wait":
        time.sleep(60)
    if action == "lightning":
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

main = Command(__name__, "config")
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
"""

CONFIG = """
defaults:
  - quant: w4
  - override hydra/job_logging: disabled
  - override hydra/hydra_logging: disabled
  - _self_
seed: 0
tag: null
tuner: {steps: 10, learning_rate: 0.1}
subject:
  path: ???
strategy: {_target_: app.refuse}
hydra:
  output_subdir: null
  run: {dir: out}
  sweep: {dir: out, subdir: "${hydra.job.num}"}
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("app")
    (folder / "app.py").write_text(APP)
    (folder / "conf" / "quant").mkdir(parents=True)
    (folder / "conf" / "experiment").mkdir()
    (folder / "conf" / "config.yaml").write_text(CONFIG)
    (folder / "conf" / "quant" / "w4.yaml").write_text("bits: 4")
    (folder / "conf" / "quant" / "w8.yaml").write_text("bits: 8")
    sweep = "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {subject.path: 'a,empty,b'}}}"
    (folder / "conf" / "experiment" / "demo.yaml").write_text(sweep)
    (folder / "conf" / "quant" / "torn.yaml").write_text("bits: [4")
    return folder


def run(app: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("HYDRA_FULL_ERROR", "QUANTBOOTH_DEBUG")}
    given = clean | {TRUST: "app"} | environment
    return subprocess.run(
        [sys.executable, "app.py", *words], cwd=app, env=given, capture_output=True, text=True, timeout=60
    )


def test_a_job_that_succeeds_says_nothing_more_and_exits_with_0(app: Path) -> None:
    done = run(app, "subject.path=a", "quant=w8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran a 8\n", "")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "option 'subject.path' has no value; set it with subject.path=..."),
        ("subject.path=empty", "no pictures in 'empty'; put some there"),
        ("subject.path=target", "bits must be one of 2, 3, 4, 8, got 5, from strategy"),
        ("subject.path=gone", "No such file or directory: {app}/gone.png"),
        (
            "subject.path=full",
            "the disk of an unnamed file (standard output, or a temporary one) is full; free some space, or use "
            "another folder",
        ),
        ("tuner.stepz=3", "unknown option 'tuner.stepz' (did you mean 'tuner.steps'?); --cfg job shows all options"),
        ("steps=3", "unknown option 'steps' (did you mean 'tuner.steps'?); --cfg job shows all options"),
        ("quantt=w8", "unknown option 'quantt' (did you mean 'quant'?); --cfg job shows all options"),
        ("xyz.abc=w8", "unknown option 'xyz.abc'; --cfg job shows all options"),
        ("quant=ww8", "'quant' has no option 'ww8' (did you mean 'w8'?); choose from torn, w4, w8"),
        ("quant=8", "a config group takes the name of a choice, got a number; 'quant' offers torn, w4, w8"),
        ("quant=null", "a config group takes the name of a choice, got null; 'quant' offers torn, w4, w8"),
        (
            "hydra.sweeper.params.seed=5",
            "Hydra cannot compose these options (Unexpected type for root: NoneType); look at those of hydra.*",
        ),
        ("seed=1,2", "'seed=1,2' names several values; add -m to run each, or write seed=[1,2] for one list"),
        (
            "fast",
            "cannot read 'fast' (missing EQUAL at '<EOF>'); options are written key=value, lists key=[a,b], other "
            "characters in double quotes inside the shell's: 'key=[\"a (b)\",c]'",
        ),
        (
            "tuner.steps=${tuner.nope} hydra.run.dir=${tuner.steps}",
            "Interpolation key 'tuner.nope' not found, from hydra.run.dir",
        ),
        ("~tuner.steps", "option 'tuner.steps' cannot be removed, got '~tuner.steps'; write tuner.steps=VALUE"),
        ("-m quant=w4,w8 seed=0,-1", "seed must be a whole number from 0 to 4294967295, got -1"),
        ("--seed=3", "unknown flag '--seed=3'; options are written without dashes: seed=3"),
        ("--cfg job -p nope", "--package=nope is no group and no option with a value; --cfg job alone shows all"),
        ("--cfg", "argument --cfg/-c: expected one argument; --hydra-help shows all flags"),
        (
            "seed=1 -m quant=w4",
            "'quant=w4' comes after a flag; write flags such as -m first, then the key=value options",
        ),
        (
            "-m subject.path=a quant=w4,ww8",
            "'quant' has no option 'ww8' (did you mean 'w8'?); choose from torn, w4, w8",
        ),
    ],
)
def test_a_mistake_ends_in_one_line_and_exit_code_2(app: Path, words: str, line: str) -> None:
    done = run(app, *words.split())
    assert done.stderr == f"quantbooth: {line.format(app=app)}\n"
    assert done.returncode == 2


def test_a_torn_config_file_is_named(app: Path) -> None:
    done = run(app, "quant=torn")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"{app}/conf/quant/torn.yaml" in done.stderr


def test_an_artifact_does_not_read_the_environment(app: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("subject: {path: '${oc.env:HOME}'}\nquant: {bits: 4}\n")
    done = run(app, "--config-dir", str(tmp_path), "--config-name", "config")
    assert (done.returncode, done.stdout) == (2, "")
    assert "oc.env" in done.stderr and str(tmp_path) in done.stderr and len(done.stderr.splitlines()) == 1


def test_debugging_shows_the_traceback_of_a_mistake(app: Path) -> None:
    done = run(app, "subject.path=empty", QUANTBOOTH_DEBUG="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("quantbooth: no pictures in 'empty'; put some there\n")


def test_a_defect_keeps_its_traceback_and_exits_with_1(app: Path) -> None:
    done = run(app, "subject.path=defect")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: a defect\n")


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        ("-m subject.path=a,empty,b", "subject.path=empty"),
        ("+experiment=demo", "subject.path=empty +experiment=demo"),  # a sweep that the config asks for
    ],
)
def test_a_failed_job_does_not_stop_the_others(app: Path, words: str, overrides: str) -> None:
    done = run(app, *words.split())
    assert done.stdout == "ran a 4\nran empty 4\nran b 4\n"
    assert done.stderr.splitlines() == [
        f"quantbooth: job 2 ({overrides}) failed: no pictures in 'empty'; put some there",
        "quantbooth: failed jobs: 1 (the others finished)",
        f"quantbooth:   job 2 ({overrides}): no pictures in 'empty'; put some there",
        f"quantbooth: to run these again: quantbooth-__main__ --retry-failed {app}/out",
    ]
    assert done.returncode == 2


def test_every_failed_job_is_listed_at_the_end_also_in_small_batches(app: Path) -> None:
    done = run(app, "-m", "hydra.sweeper.max_batch_size=1", "subject.path=defect,a,gone")
    assert done.stdout == "ran defect 4\nran a 4\nran gone 4\n"
    assert done.stderr.splitlines()[-4:-1] == [
        "quantbooth: failed jobs: 2 (the others finished)",
        "quantbooth:   job 1 (subject.path=defect): ValueError: a defect",
        f"quantbooth:   job 3 (subject.path=gone): No such file or directory: {app}/gone.png",
    ]
    assert done.returncode == 1  # one of them is a bug


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
@pytest.mark.parametrize("words", [("subject.path=wait",), ("-m", "subject.path=wait,a")], ids=["job", "sweep"])
def test_a_signal_to_end_is_one_line_and_exit_code_143(
    app: Path, number: signal.Signals, words: tuple[str, ...]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "app.py", *words], cwd=app, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ran wait 4\n"
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert stderr == f"quantbooth: ended by {number.name}; finished work is kept, and the same command resumes\n"
    assert (process.returncode, stdout) == (143, "")


def test_interruption_exits_with_130(app: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "app.py", "subject.path=wait"],
        cwd=app,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ran wait 4\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert stderr.startswith("quantbooth: interrupted") and stderr.count("\n") == 1
    assert process.returncode == 130


def test_an_interruption_that_lightning_turned_into_an_exit_is_one_too(app: Path) -> None:
    assert run(app, "subject.path=lightning").returncode == 130


def test_the_version_is_ours(app: Path) -> None:
    done = run(app, "--version")
    assert done.stdout.startswith("quantbooth ")
    assert done.returncode == 0


def test_a_line_stays_one_line() -> None:
    assert "\n" not in explain(UserError("first\n\n   second"))


def test_defects_are_no_mistakes() -> None:
    assert is_mistake(UserError("x"))
    assert is_mistake(FileNotFoundError("x"))
    assert not is_mistake(ValueError("x"))
    assert not is_mistake(RuntimeError("x"))
    assert "provider=" in explaining.NOISE


@pytest.mark.parametrize(
    ("option", "choice"),
    [
        ("base.path", "base=chroma or base=flux1_dev or base=folder"),
        ("subject.path", "subject=folder"),
        ("tuner.rank", "tuner=lora or tuner=qa_lora or tuner=qlora"),
        ("strategy.interval", "strategy=s1"),
    ],
)
def test_an_option_of_another_choice_is_answered_with_that_choice_also_where_it_is_inherited(
    option: str, choice: str
) -> None:
    line = explain(ValueError(f"Could not override '{option}'.\nKey is not in struct"), "quantbooth")
    assert line.startswith(f"unknown option '{option}' of this choice; {choice} ")


def test_lightning_says_nothing_of_its_own_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    log = logging.getLogger("lightning.pytorch")
    monkeypatch.delenv("QUANTBOOTH_DEBUG", raising=False)
    before, filters = log.level, warnings.filters[:]
    try:
        log.setLevel(logging.INFO)  # as importing it does
        quiet_libraries()
        assert not log.isEnabledFor(logging.INFO)
    finally:
        log.setLevel(before)
        warnings.filters[:] = filters  # type: ignore[index]
