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

from quantbooth.commands.calibrate import calibrate
from quantbooth.run.run import Run

QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "prior=none", "tuner.steps=120"),
    *("preview.validation_steps=0", "protocol.prompt_stride=25", "protocol.eval_steps=[10]"),
    *("tuner.ema_decay=0.9", "resources.checkpoint_every=0.2"),
)
SLURM = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "sweep", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
SLURM |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1"}


class Tune:
    """quantbooth-tune in a folder, in a process of its own."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.folder, self.words = folder, words
        self.checkpoints = folder / "out" / "store" / "unfinished"

    def start(self, *more: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "quantbooth.commands.tune", *self.words, *more],
            cwd=self.folder,
            env=os.environ | SLURM,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_step(self, least: int) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            steps = [int(path.name.split("-")[1]) for path in self.checkpoints.rglob("checkpoint-*.safetensors")]
            if max(steps, default=0) >= least:
                return
            time.sleep(0.02)
        raise TimeoutError

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


def finish(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    _, stderr = process.communicate(timeout=300)
    return process.returncode, stderr.splitlines()


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGUSR1,
        *(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)),
    ],
    ids=lambda number: number.name,
)
def test_a_tuning_that_is_ended_goes_on_to_the_same_bytes(tunes: list[Tune], number: signal.Signals) -> None:
    stopped, through = tunes
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.0"}, stopped.folder / "hpc_ckpt_9.ckpt")
    process = stopped.start()
    stopped.wait_for_step(20)
    process.send_signal(number)
    code, said = finish(process)
    line = f"quantbooth: ended by {number.name}; finished work is kept, and the same command resumes"
    if number == signal.SIGINT:
        line = "quantbooth: interrupted; finished work is kept, and the same command resumes"
    if number == signal.SIGKILL:
        assert code == -9
    else:
        assert code == (130 if number == signal.SIGINT else 143)
        assert [word for word in said if word.startswith("quantbooth: ")] == [line]
        assert not any("Traceback" in word for word in said)
    assert not list((stopped.folder / "out" / "store" / "scale_sets").glob("*/manifest.json"))
    assert [path.name for path in stopped.folder.glob("*.ckpt")] == ["hpc_ckpt_9.ckpt"]
    code, said = finish(stopped.start())
    assert code == 0
    (goes_on,) = (word for word in said if " goes on from step " in word)
    assert int(goes_on.rpartition(" ")[2]) >= 20
    assert finish(through.start())[0] == 0
    assert stopped.files() == through.files()
    assert len(stopped.files()) == 2


def test_a_tuning_that_is_ended_has_saved_the_step_it_was_in(tunes: list[Tune]) -> None:
    stopped = tunes[0]
    process = stopped.start("resources.checkpoint_every=3600", "tuner.steps=100000", "trainer.log_every_n_steps=1")
    log = stopped.folder / "out" / "logs" / "csv"
    end = time.monotonic() + 120
    while not list(log.rglob("metrics.csv")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143
    (checkpoint,) = stopped.checkpoints.rglob("checkpoint-*.safetensors")
    rows = next(log.rglob("metrics.csv")).read_text().splitlines()
    assert int(checkpoint.name.split("-")[1]) == len(rows) - 1 > 0
