"""Real processes side by side: all succeed, each artifact is made once, and whoever dies is replaced."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

QUICK = (
    *("base=folder", "base.resolution=32", "calibration=qdiffusion", "sampler.steps=2", "quant=w4a8", "strategy=s2"),
    *("calibration.rounding.iterations=40", "calibration.rounding.batch=2", "calibration.activations.iterations=2"),
    *("calibration.set.count=3", "calibration.set.timesteps=2", "calibration.set.batch=2"),
    *("tuner.steps=4", "protocol.eval_steps=[]", "protocol.prompt_stride=25", "protocol.seeds=[0]"),
    *("prior.num_class_images=4", "preview.validation_steps=0", "resources.checkpoint_every=0", "scorer=toy"),
)
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(base_folder: Path, tmp_path: Path) -> Start:
    def run(store: str, command: str = "pipeline") -> "subprocess.Popen[str]":
        words = [*QUICK, f"base.path={base_folder}", f"paths.outputs={tmp_path / store}"]
        return subprocess.Popen(
            [sys.executable, "-m", "quantbooth.programs", command, *words],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


def end(process: "subprocess.Popen[str]") -> str:
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 0, said
    return said


def wait_for(ready: Callable[[], object]) -> None:
    limit = time.monotonic() + 300
    while not ready():
        assert time.monotonic() < limit
        time.sleep(0.01)


def tensors(store: Path) -> dict[str, bytes]:
    """Return what every artifact holds, but for times and costs."""
    files = [file for kind in ("*.safetensors", "*.png", "rows.parquet") for file in store.rglob(kind)]
    return {file.relative_to(store).as_posix(): file.read_bytes() for file in files}


def owner(store: Path, kind: str) -> int | None:
    """Return the PID of the process that makes an artifact of a kind."""
    for lock in (store / kind).glob(".*.lock"):
        lines = dict(line.split("=") for line in lock.read_text().splitlines()[1:])
        return int(lines["pid"]) if "pid" in lines else None
    return None


def test_a_job_array_from_an_empty_store_makes_everything_once(start: Start, tmp_path: Path) -> None:
    end(start("alone"))
    said = [end(process) for process in [start("together") for _ in range(4)]]
    store = tmp_path / "together" / "store"
    assert tensors(store) == tensors(tmp_path / "alone" / "store")
    for what in (
        "rounding block 1 of",
        "tuning toy_mug",
        "generating prior",
        "generating toy_mug-base",
        "scoring toy_mug-s2",
    ):
        assert sum(text.count(f"{what}") for text in said) == sum(text.count(f"{what}") > 0 for text in said) == 1, what
    assert sum("waiting for quantized base " in text for text in said) == 3
    assert sorted(path.name for path in store.rglob(".*")) == []
    assert not list(store.glob("unfinished/*"))
    runs = list((tmp_path / "together" / "logs" / "runs").glob("*/*"))
    assert len(runs) == 4


@pytest.mark.parametrize(
    ("kind", "part"), [("quantized_base", "part-00001.safetensors"), ("scale_sets", "checkpoint-*")]
)
def test_a_waiter_takes_over_from_an_owner_that_is_killed(start: Start, tmp_path: Path, kind: str, part: str) -> None:
    end(start("alone"))
    store = tmp_path / "together" / "store"
    processes = {process.pid: process for process in [start("together") for _ in range(3)]}
    wait_for(lambda: list((store / "unfinished").rglob(part)))
    killed = owner(store, kind)
    assert killed is not None
    processes[killed].kill()
    processes.pop(killed).wait(60)
    said = [end(process) for process in processes.values()]
    assert tensors(store) == tensors(tmp_path / "alone" / "store")
    if kind == "quantized_base":  # the first block was finished
        assert not any("rounding block 1 of" in text for text in said)
    else:
        assert sum("goes on from step" in text for text in said) == 1
    assert sorted(path.name for path in store.rglob(".*")) == []


def test_ctrl_c_ends_the_wait_at_once(start: Start, tmp_path: Path) -> None:
    first = start("together", "calibrate")
    store = tmp_path / "together" / "store"
    wait_for(lambda: owner(store, "quantized_base"))
    os.kill(first.pid, signal.SIGSTOP)
    second = start("together", "calibrate")
    stderr = second.stderr
    assert stderr is not None
    wait_for(lambda: f": process {first.pid} on " in stderr.readline())
    began = time.monotonic()
    second.send_signal(signal.SIGINT)
    assert second.wait(60) == 130
    assert time.monotonic() - began < 10
    os.kill(first.pid, signal.SIGCONT)
    end(first)
