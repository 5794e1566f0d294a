"""A tuning of two processes: the losses and what is learned are those of one process with the joint batch."""

import csv
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from forked import Forked, server
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.tune import tune
from quantbooth.run.run import Run
from quantbooth.runtime import processes
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.files import snapshot_path
from quantbooth.tuning.module import TuningModule

pytestmark = pytest.mark.chain

Configure = Callable[..., DictConfig]
SECONDS = 200
"""After which a test that hangs is killed."""
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "tuner.steps=3", "prior=none"),
    *(
        "preview.validation_steps=0",
        "protocol.prompt_stride=25",
        "protocol.eval_steps=[]",
        "trainer.log_every_n_steps=1",
    ),
)
DCO = "tuner.dco_beta=1.0"
PROMPTED = ("prior=prompted", "prior.num_class_images=2", "prior.class_batch_size=2")
SETTINGS = {
    "experts": ("tuner=scales", "strategy=s2", "tuner.ema_decay=0.5", "+trainer.gradient_clip_val=0.001"),
    "class pictures": ("tuner=scales_in_out", *PROMPTED, "+trainer.accumulate_grad_batches=2"),
    "several subjects": ("tuner=scales", "subjects=[toy_mug,toy_duck]", "strategy=s2"),
    "adapters and identifier": ("tuner=qlora", "tuner.identifier=true", "tuner.train_batch_size=4"),
    "float": ("method=float", *PROMPTED, "prior.target=base", "tuner.pull=0.1"),
    "rows of one kind": ("tuner=scales", *PROMPTED, "prior.class_batch_size=1", "tuner.train_batch_size=1", DCO),
}
"""In the last, one process has the photo and the other the class picture."""
SLOW = ("several subjects", "adapters and identifier", "float")
SLOW_CASES = [pytest.param(name, marks=pytest.mark.slow) for name in SLOW]


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def configure(compose: Callable[..., DictConfig], tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration on a tiny untrained base that is quantized already."""
    make = partial(compose, tmp_path_factory.mktemp("processes") / "out", *QUICK)
    calibrate(Run(make()))
    return make


def tuned(configure: Configure, folder: Path, devices: int, *words: str) -> tuple[list[dict[str, Any]], Any, Run]:
    """The rows of losses, what was learned, and the run, of a tuning by some processes."""
    store = folder / str(devices)
    if not store.exists():
        store.mkdir()
        (store / "quantized_base").symlink_to(Path(configure().paths.store) / "quantized_base")
    cfg = configure(*words, f"trainer.devices={devices}", f"paths.store={store}", f"paths.logs={folder}/logs{devices}")
    run = Run(cfg)
    folders = tune(run)
    (file,) = (folder / f"logs{devices}").glob("csv/*/metrics.csv")
    with file.open() as stream:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(stream)]
    return rows, [load_file(snapshot_path(one, run.recipe.steps)) for one in folders], run


@pytest.fixture
def no_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forks further processes from one that has imported everything; test_whatever_ends_a_process spawns them."""
    monkeypatch.setattr(processes, "get_context", lambda _: server())


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows this process computed in each step."""
    counts, inner = list[int](), TuningModule.errors

    def noted(module: TuningModule, x_0: torch.Tensor, *more: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            counts.append(len(x_0))
        return inner(module, x_0, *more)

    monkeypatch.setattr(TuningModule, "errors", noted)
    return counts


@pytest.mark.parametrize("name", [*(name for name in SETTINGS if name not in SLOW), *SLOW_CASES])
@pytest.mark.usefixtures("no_imports")
def test_two_processes_learn_what_one_does(
    configure: Configure, tmp_path: Path, computed: list[int], name: str
) -> None:
    (rows, learned, run), (twin_rows, twins, twin) = (
        tuned(configure, tmp_path, devices, *SETTINGS[name]) for devices in (2, 1)
    )
    assert len(rows) == len(twin_rows) == 3
    for row, expected in zip(rows, twin_rows, strict=True):
        assert row.keys() == expected.keys()
        for key in (key for key in row if "loss" in key or "learning_rate" in key):
            assert row[key] == pytest.approx(expected[key], rel=1e-5, abs=1e-7), key
        assert row["tune/loss"] == pytest.approx(expected["tune/loss"], rel=1e-6)
    for state, other in zip(learned, twins, strict=True):
        assert state.keys() == other.keys()
        for key, tensor in state.items():
            torch.testing.assert_close(tensor, other[key], rtol=1e-4, atol=1e-4)
    steps, joint = len(computed) // 2, run.recipe.batch * len(run.subjects)
    assert computed == [joint // 2] * steps + [joint] * steps
    manifests = [one.subjects[0].tuned.manifest() for one in (run, twin)]
    assert manifests[0].fingerprint == manifests[1].fingerprint
    assert [one.measured.get("processes") for one in manifests] == [2, None]
    for key in ("samples_seen", "samples_per_expert", "trainable"):
        assert manifests[0].measured[key] == manifests[1].measured[key], key


class KilledError(RuntimeError):
    """Stands for the end of the first process."""


@pytest.mark.usefixtures("no_imports")
def test_a_tuning_of_two_processes_goes_on_and_stops_as_one_process_does(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        *("tuner=scales", "strategy=s2", "tuner.steps=6", "resources.checkpoint_every=0", "tuner.ema_decay=0.5"),
        *("tuner.stopping.every=1", "tuner.stopping.window=2", "tuner.stopping.variance=1000000", "seed=1"),
    )
    inner = TuningModule.training_step

    def killed(module: TuningModule, number: int) -> object:
        if module.global_step == 1 and module.share is not None:
            raise KilledError
        return inner(module, number)

    with monkeypatch.context() as patch:
        patch.setattr(TuningModule, "training_step", killed)
        with pytest.raises(KilledError):
            tuned(configure, tmp_path, 2, *words)
    assert not active_children()
    (_, (learned,), run), (_, (twin,), other) = (tuned(configure, tmp_path, devices, *words) for devices in (2, 1))
    for key, tensor in learned.items():
        torch.testing.assert_close(tensor, twin[key], rtol=1e-4, atol=1e-4)
    stopped = [one.only.tuned.manifest().measured for one in (run, other)]
    assert stopped[0]["stopped_at"] == stopped[1]["stopped_at"] == [2]
    assert stopped[0]["frozen_losses"] == pytest.approx(stopped[1]["frozen_losses"], rel=1e-5)


def test_processes_that_do_not_divide_a_batch_are_refused_before_work(configure: Configure) -> None:
    with pytest.raises(UserError, match=r"trainer\.devices=2 .* 3 rows .*tuner\.train_batch_size=3 .*=0"):
        tune(Run(configure("trainer.devices=2", "tuner.train_batch_size=3")))


@pytest.mark.parametrize(
    ("hit", "number", "code", "line"),
    [
        ("group", signal.SIGINT, 130, "quantbooth: interrupted; finished work is kept, and the same command resumes"),
        (
            "other",
            signal.SIGKILL,
            2,
            r"quantbooth: process 2 of trainer\.devices=2 .* \(SIGKILL\).*",
        ),
        pytest.param("first", signal.SIGKILL, -9, "", marks=pytest.mark.slow),
    ],
)
def test_whatever_ends_a_process_ends_all_in_one_line(
    configure: Configure, tmp_path: Path, base_folder: Path, hit: str, number: signal.Signals, code: int, line: str
) -> None:
    options = [*QUICK, "tuner.steps=2000", f"base.path={base_folder}", "trainer=ddp", "resources.checkpoint_every=0"]
    shutil.copytree(Path(configure().paths.store) / "quantized_base", tmp_path / "outputs/store/quantized_base")
    process = Forked(tmp_path, "tune", *options)
    try:
        while not list(tmp_path.glob("outputs/store/unfinished/*/run-0/checkpoint-*")):
            assert process.poll() is None
            time.sleep(0.1)
        (other,) = [one for one in psutil.Process(process.pid).children() if "spawn_main" in " ".join(one.cmdline())]
        if hit == "group":
            os.killpg(process.pid, number)
        else:
            os.kill(other.pid if hit == "other" else process.pid, number)
        said = process.communicate(SECONDS)[1]
        other.wait(10)
    finally:
        process.kill()
    assert process.returncode == code
    assert "Traceback" not in said
    found = [one for one in said.splitlines() if one.startswith("quantbooth:")]
    assert len(found) == bool(line)
    assert all(re.fullmatch(line, one) for one in found)
