"""Real processes of quantbooth-tune that get real signals: exit codes, one line, and the same bytes when run again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from curve_files import lasting
from quantbooth import programs
from quantbooth.commands.calibrate import calibrate
from quantbooth.run.run import Run
from wandb_files import wandb_steps

QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "prior=none", "tuner.steps=120"),
    *("preview.validation_steps=0", "protocol.prompt_stride=25", "protocol.eval_steps=[10]"),
    *("tuner.ema_decay=0.9", "resources.checkpoint_every=0"),
)
SLURM = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "sweep", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
SLURM |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1"}


class Tune:
    """quantbooth-tune in a folder, in a process of its own."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.folder, self.words = folder, words
        self.checkpoints = folder / "out" / "store" / "unfinished"

    def start(self, *more: str) -> "subprocess.Popen[str]":
        # W&B names its own process in the environment, where a child would look for it
        inherited = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
        return subprocess.Popen(
            [sys.executable, "-m", "quantbooth.programs", "tune", *self.words, *more],
            cwd=self.folder,
            env=inherited | SLURM,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def step(self) -> int:
        """Return the step of the last checkpoint."""
        found = self.checkpoints.rglob("checkpoint-*.safetensors")
        return max((int(path.name.split("-")[1]) for path in found), default=0)

    def files(self) -> dict[str, bytes]:
        folders = (self.folder / "out" / "store" / "scale_sets").iterdir()
        return {file.name: file.read_bytes() for folder in folders for file in folder.glob("*.safetensors")}


@pytest.fixture
def tunes(compose: Callable[..., DictConfig], base_folder: Path, tmp_path: Path) -> list[Tune]:
    """Makes the command in two folders, with a quantized base in each."""
    made = []
    for name in ("stopped", "through"):
        folder = tmp_path / name
        calibrate(Run(compose(folder / "out", *QUICK)))
        made.append(Tune(folder, [*QUICK, f"base.path={base_folder}", "paths.outputs=out"]))
    return made


def wait(ready: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < end
        assert process.poll() is None, finish(process)
        time.sleep(0.02)


def finish(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    _, stderr = process.communicate(timeout=300)
    return process.returncode, stderr.splitlines()


@pytest.mark.slow  # in CI: test_signals, which goes on in its own process
@pytest.mark.chain
def test_a_tuning_that_slurm_ends_goes_on_to_the_same_bytes(tunes: list[Tune]) -> None:
    stopped, through = tunes
    each = "trainer.log_every_n_steps=1"  # means over steps before a checkpoint are not logged again
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.0"}, stopped.folder / "hpc_ckpt_9.ckpt")
    process = stopped.start(each)
    wait(lambda: stopped.step() >= 20, process)
    process.send_signal(signal.SIGUSR1)
    code, said = finish(process)
    line = "quantbooth: ended by SIGUSR1; finished work is kept, and the same command resumes"
    assert code == 143
    assert [word for word in said if word.startswith("quantbooth: ")] == [line]
    assert not any("Traceback" in word for word in said)
    assert not list((stopped.folder / "out" / "store" / "scale_sets").glob("*/manifest.json"))
    assert [path.name for path in stopped.folder.glob("*.ckpt")] == ["hpc_ckpt_9.ckpt"]
    code, said = finish(stopped.start(each))
    assert code == 0
    (goes_on,) = (word for word in said if " goes on from step " in word)
    assert int(goes_on.rpartition(" ")[2]) >= 20
    assert finish(through.start(each))[0] == 0
    assert stopped.files() == through.files()
    assert len(stopped.files()) == 2
    curves = [lasting(next((one.folder / "out" / "logs" / "csv").rglob("metrics.csv"))) for one in tunes]
    assert curves[0] == curves[1]


@pytest.mark.slow
@pytest.mark.parametrize("every", ["0", "100000"])
@pytest.mark.parametrize("tracker", ["wandb", "tensorboard"])
def test_the_curves_of_a_killed_tuning_are_one_run_with_each_step_once(
    tunes: list[Tune], tracker: str, every: str
) -> None:
    tune = tunes[0]
    tune.words += [f"logger={tracker}", f"resources.checkpoint_every={every}", "trainer.log_every_n_steps=1"]
    tune.words += ["preview.validation_steps=40"]
    logs = tune.folder / "out" / "logs" / tracker
    process = tune.start()
    wait(lambda: list((tune.folder / "out" / "logs" / "samples").rglob("step-000040.png")), process)
    time.sleep(1)
    process.kill()
    finish(process)
    code, said = finish(tune.start())
    assert code == 0, said
    assert any(" goes on from step " in line for line in said) == (every == "0")
    if tracker == "tensorboard":
        events = EventAccumulator(str(next(logs.iterdir())), size_guidance={"scalars": 0, "images": 0})
        events.Reload()
        assert [event.step for event in events.Scalars("tune/loss")] == list(range(120))
        assert [event.step for event in events.Images("samples")] == [40, 80, 120]
        return
    (left,) = logs.glob("offline-run-*")
    assert wandb_steps(left) == list(range(120))


def test_a_wandb_server_that_is_not_there_is_one_line_before_any_work(
    typed: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*(word for word in QUICK if not word.startswith("prior=")), "prior=generated"]
    assert typed(programs.calibrate, *words)[0] == 0
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_MODE")
    began = time.monotonic()
    code, said = typed(programs.tune, *words, "logger=wandb")
    assert code == 2
    assert said.startswith("quantbooth: the W&B server http://127.0.0.1:9 cannot be reached (")
    assert "set WANDB_MODE=offline" in said
    assert said.count("\n") == 1
    assert time.monotonic() - began < 30
    assert [path.name for path in (tmp_path / "out" / "store").iterdir()] == ["quantized_base"]


@pytest.mark.chain
def test_a_tuning_that_is_ended_has_saved_the_step_it_was_in(tunes: list[Tune]) -> None:
    stopped = tunes[0]
    process = stopped.start("resources.checkpoint_every=3600", "tuner.steps=100000", "trainer.log_every_n_steps=1")
    log = stopped.folder / "out" / "logs" / "csv"
    wait(lambda: list(log.rglob("metrics.csv")), process)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143
    (checkpoint,) = stopped.checkpoints.rglob("checkpoint-*.safetensors")
    rows = next(log.rglob("metrics.csv")).read_text().splitlines()
    assert int(checkpoint.name.split("-")[1]) == len(rows) - 1 > 0
