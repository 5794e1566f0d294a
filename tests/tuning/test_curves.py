"""Curves of a tuning: what they are of, that they wait for nothing between logged steps, and change no bit."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch.utils._python_dispatch import TorchDispatchMode

from quantbooth import programs
from quantbooth.quant import scale_sets
from quantbooth.timesteps.zones import Zone, Zones
from quantbooth.tuning.curves import BINS, Curves
from quantbooth.tuning.module import Errors, TuningModule

MakeStage = Callable[..., TuningModule]


class Recorder(Logger):
    """Remembers what is logged."""

    name, version = "recorder", 0

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *given: Any, **more: Any) -> None: ...


class Watcher(Callback):
    """Remembers the errors of every batch."""

    def __init__(self) -> None:
        self.seen: list[Errors] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.seen.append(pl_module.last)


def train(stage: TuningModule, every: int, *callbacks: Callback, accumulate: int = 1) -> Recorder:
    recorder, quiet = Recorder(), dict.fromkeys(("enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=stage.recipe.steps,
        max_epochs=-1,
        logger=recorder,
        log_every_n_steps=every,
        enable_checkpointing=False,
        accumulate_grad_batches=accumulate,
        callbacks=[*callbacks],
        **quiet,  # type: ignore[arg-type]
    )
    trainer.fit(stage)
    return recorder


def expected_losses(seen: list[Errors], stage: TuningModule) -> dict[str, float]:
    """Return the mean errors of the two photos of each batch, by zone and bin."""
    errors = torch.cat([one.errors[:2] for one in seen]).double()
    t = torch.cat([one.t[:2] for one in seen])
    borders = [(f"zone/{zone.name}", zone.start, zone.stop) for zone in stage.zones.zones]
    borders += [(f"bin/{b * 100:04d}-{b * 100 + 100:04d}", b * 100, b * 100 + 100) for b in range(BINS)]
    inside = {name: (t >= start) & (t < stop) for name, start, stop in borders}
    return {f"tune/loss/{name}": float(errors[rows].mean()) for name, rows in inside.items() if bool(rows.any())}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_curves_are_means_since_the_last_row(new_stage: MakeStage, accumulate: int) -> None:
    recipe = {"steps": 4, "accumulate_grad_batches": accumulate}
    alone, watched, watcher = new_stage(**recipe), new_stage(**recipe), Watcher()
    train(alone, 0, watcher, accumulate=accumulate)
    recorder = train(watched, 2, Curves(watched), accumulate=accumulate)
    assert [step for step, _ in recorder.rows] == [1, 3]
    for place, (step, row) in enumerate(recorder.rows):
        own = watcher.seen[2 * accumulate * place : 2 * accumulate * (place + 1)]
        found = {name: value for name, value in row.items() if name.startswith(("tune/loss/zone", "tune/loss/bin"))}
        expected = expected_losses(own, watched)
        assert found == pytest.approx(expected, rel=1e-12) and len(expected) > 2
        assert row["tune/loss"] == float(own[-1].losses[0])
        assert row["tune/learning_rate/gains"] == pytest.approx(0.01 * watched.recipe.rate_at(step or 0))
        assert row["tune/peak_memory_bytes"] > 1e6
        assert 0 < row["tune/seconds_per_step"] < row["tune/seconds"]
    last, sets = recorder.rows[-1][1], scale_sets.read(watched.denoiser)
    for number, zone in enumerate(watched.zones.zones):
        away = torch.cat([gains[number].double() - 1 for gains in sets.values()]).abs()
        assert last[f"gain/{zone.name}/mean"] == pytest.approx(float(away.mean()), rel=1e-5)
        assert last[f"gain/{zone.name}/max"] == pytest.approx(float(away.max()), rel=1e-5)
    with torch.no_grad():
        assert last["tune/loss/frozen"] == float(alone.loss_of(alone.drawn(-1)).mean())
    assert all(torch.equal(sets[name], other) for name, other in scale_sets.read(alone.denoiser).items())


def test_a_set_of_several_intervals_has_one_loss_and_one_distance(new_stage: MakeStage) -> None:
    parts = (Zone("selected", 0, 200), Zone("rest", 300, 500), Zone("selected", 600, 800))
    stage, watcher = new_stage(Zones(parts, 1000), steps=4), Watcher()
    ((_, row),) = train(stage, 4, watcher, Curves(stage)).rows
    errors, t = (torch.cat([getattr(one, key)[:2] for one in watcher.seen]) for key in ("errors", "t"))
    for number, name in enumerate(("selected", "rest"), start=1):
        expected = float(errors[stage.zones.index(t) == number].double().mean())
        assert row[f"tune/loss/zone/{name}"] == pytest.approx(expected, rel=1e-12)
    distances = {key for key in row if key.startswith("gain/")}
    assert distances == {f"gain/{name}/{what}" for name in ("selected", "rest") for what in ("mean", "max")}


class Waits(TorchDispatchMode):
    """Counts what can wait for a device: reading a number, or copying a tensor."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten._to_copy.default)
        return func(*args, **(kwargs or {}))


def test_nothing_is_waited_for_between_the_rows(new_stage: MakeStage) -> None:
    counts = []
    for every in (0, 100):
        stage = new_stage(steps=3)
        with Waits() as waits:
            assert train(stage, every, Curves(stage)).rows == []
        counts.append(waits.count)
    assert counts[0] == counts[1] > 0


@pytest.mark.chain
def test_trackers_change_no_byte_of_what_is_tuned(
    typed: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    words = ["base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=1", "prior=none"]
    words += ["strategy=s2", "tuner.steps=3", "protocol.eval_steps=[1]", "tuner.ema_decay=0.5"]
    given = {
        "without": ["trainer.log_every_n_steps=0", "preview.validation_steps=0"],
        "with": ["trainer.log_every_n_steps=1", "preview.validation_steps=1", "logger=[csv,tensorboard,wandb]"],
    }
    tuned = {}
    for name, more in given.items():
        store = f"paths.store={tmp_path}/{name}"
        assert typed(programs.calibrate, *words, store)[0] == 0
        assert typed(programs.tune, *words, *more, store)[0] == 0
        files = (tmp_path / name / "scale_sets").glob("*/step-*.safetensors")
        tuned[name] = {file.relative_to(tmp_path / name): file.read_bytes() for file in files}
    assert tuned["with"] == tuned["without"] and len(tuned["with"]) == 2
    logs = tmp_path / "out" / "logs"
    assert len(next(logs.rglob("metrics.csv")).read_text().splitlines()) == 1 + 3
    assert len(list(logs.rglob("events.*"))) == len(list(logs.glob("wandb/offline-run-*"))) == 1


@pytest.mark.parametrize(("every", "said"), [(3, True), (2, False), (0, False)])
def test_a_tuning_too_short_for_a_curve_says_so(
    new_stage: MakeStage, capsys: pytest.CaptureFixture[str], every: int, said: bool
) -> None:
    stage = new_stage(steps=2)
    recorder = train(stage, every, Curves(stage))
    assert bool(recorder.rows) is (every == 2)
    found = capsys.readouterr().err
    assert ("tuner.steps=2 is less than trainer.log_every_n_steps=3: no curves are logged" in found) is said
