"""A tuning process that gets a signal saves its state, says so by its exit code, and goes on when run again."""

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from forked import Forked
from quantbooth import programs

pytestmark = pytest.mark.chain

OPTIONS = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "prior=none", "tuner.steps=150", "strategy=s2"),
    *("preview.validation_steps=0", "protocol.eval_steps=[]", "resources.checkpoint_every=1", "tuner.ema_decay=0.9"),
)
QUANTIZED = "outputs/store/quantized_base"
SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


class Work:
    """Commands in a folder, on the same base, quantized already where it was in other work."""

    def __init__(self, folder: Path, base: Path, other: "Work | None" = None) -> None:
        self.folder, self.base = folder, base
        folder.mkdir()
        if other is not None:
            shutil.copytree(other.folder / QUANTIZED, folder / QUANTIZED)

    def start(self, command: str, **environment: str) -> Forked:
        return Forked(self.folder, command, *OPTIONS, f"base.path={self.base}", **environment)

    def run(self, command: str) -> str:
        process = self.start(command)
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said
        return said

    @property
    def tuned(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in self.folder.glob("outputs/store/scale_sets/*/step-*")}

    def wait_for_a_checkpoint(self) -> None:
        for _ in range(600):
            if list(self.folder.glob("outputs/store/unfinished/*/run-0/checkpoint-*")):
                return
            time.sleep(0.1)
        raise TimeoutError

    def steps_logged(self) -> list[int]:
        (file,) = self.folder.glob("outputs/logs/csv/*/metrics.csv")
        header, *rows = file.read_text().splitlines()
        place = header.split(",").index("step")
        return [int(row.split(",")[place]) for row in rows]


@pytest.fixture(scope="module")
def through(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """A run that nothing stopped."""
    work = Work(tmp_path_factory.mktemp("through") / "work", base_folder)
    work.run("calibrate")
    work.run("tune")
    return work


@pytest.mark.parametrize(
    ("number", "code", "environment"),
    [
        *(pytest.param(signal.SIGTERM, 143, given, marks=pytest.mark.slow) for given in ({}, SLURM)),
        (signal.SIGUSR1, 143, SLURM),
        (signal.SIGINT, 130, {}),
        (signal.SIGKILL, -9, {}),
    ],
)
def test_a_signal_is_no_success_and_the_same_command_goes_on(
    through: Work,
    base_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    typed: Callable[..., tuple[int, str]],
    number: signal.Signals,
    code: int,
    environment: dict[str, str],
) -> None:
    """It goes on in this process; `test_ended` goes on in a new one."""
    work = Work(tmp_path / "work", base_folder, through)
    process = work.start("tune", **environment)
    work.wait_for_a_checkpoint()
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    assert work.tuned == {}
    if code > 0:
        assert "the same command resumes" in said.splitlines()[-1]
    monkeypatch.chdir(work.folder)
    code, said = typed(programs.tune, *OPTIONS, "paths.outputs=outputs")
    assert code == 0 and " goes on from step " in said
    assert work.tuned == through.tuned
    assert work.steps_logged() == through.steps_logged()
    assert not list(work.folder.glob("*ckpt*"))
    assert not list(work.folder.glob("outputs/store/unfinished/*"))


@pytest.mark.slow
def test_a_foreign_checkpoint_in_a_slurm_job_is_not_taken(through: Work, base_folder: Path, tmp_path: Path) -> None:
    work = Work(tmp_path / "work", base_folder, through)
    (work.folder / "hpc_ckpt_1.ckpt").write_bytes(b"state of another run")
    process = work.start("tune", **SLURM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert work.tuned == through.tuned
