"""Lightning's callbacks by config group: they watch a tuning, and one of another package is part of what is tuned."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import DeviceStatsMonitor, LearningRateMonitor
from omegaconf import DictConfig, open_dict
from safetensors.torch import load_file

from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.tune import tune
from quantbooth.run.reopened import reopened
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.files import snapshot_path

Compose = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "prior=none", "tuner.steps=3", "sampler.steps=2"),
    *("preview.validation_steps=0", "trainer.log_every_n_steps=1"),
)


def identity(run: Run) -> object:
    return run.only.tuned.identity


def test_callbacks_watch_and_change_no_bit_and_no_name(compose: Compose, tmp_path: Path) -> None:
    watched, alone = (
        Run(compose(tmp_path / name, *QUICK, *words))
        for name, words in (("one", ["callbacks=[device_stats,learning_rate]"]), ("two", []))
    )
    assert [type(one) for one in watched.callbacks] == [DeviceStatsMonitor, LearningRateMonitor]
    assert identity(watched) == identity(alone)
    folders = []
    for run in (watched, alone):
        calibrate(run)
        folders += tune(run)
    files = [load_file(snapshot_path(folder, 3)) for folder in folders]
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())
    (metrics,) = (tmp_path / "one").rglob("metrics.csv")
    found = set(pd.read_csv(metrics).columns)
    assert {"lr-AdamW"} <= {name.split("/")[0] for name in found}
    assert any("DeviceStatsMonitor" in name for name in found)


def test_a_callback_of_another_package_is_part_of_what_is_tuned(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, alone = compose(tmp_path, *QUICK), identity(Run(compose(tmp_path, *QUICK)))
    with open_dict(cfg):
        cfg.callbacks = {"mine": {"_target_": "lightning.pytorch.callbacks.Timer", "duration": "01:00:00:00"}}
    with pytest.raises(UserError, match=r"^callbacks\.mine\._target_ must be a class that the configs of quantbooth"):
        tune(Run(cfg))
    monkeypatch.setenv("QUANTBOOTH_TRUST", "lightning.pytorch.callbacks")
    assert identity(Run(cfg)) != alone
    cfg.trainer.devices = 2
    with pytest.raises(
        UserError, match=r"^callbacks\.mine may change what is learned, and would do so in one process of"
    ):
        tune(Run(cfg))


def test_work_that_was_tuned_with_a_callback_is_opened_by_its_name(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTBOOTH_TRUST", "lightning.pytorch.callbacks")
    cfg = compose(tmp_path, *QUICK)
    with open_dict(cfg):
        cfg.callbacks = {"mine": {"_target_": "lightning.pytorch.callbacks.Timer", "duration": "01:00:00:00"}}
    calibrate(Run(cfg))
    (tuned,) = tune(Run(cfg))
    again = reopened(compose(tmp_path, *QUICK, f"scale_sets={tuned}"), [f"scale_sets={tuned}"])[0]
    assert again.only.tuned.require() == tuned


def test_a_callback_that_ends_a_tuning_is_told_in_a_line(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTBOOTH_TRUST", "lightning.pytorch.callbacks")
    cfg = compose(tmp_path, *QUICK)
    with open_dict(cfg):
        cfg.callbacks = {"mine": {"_target_": "lightning.pytorch.callbacks.Timer", "duration": "00:00:00:00"}}
    calibrate(Run(cfg))
    with pytest.raises(UserError, match=r"^a callback ended the tuning after step 0 of 3; leave it out, and"):
        tune(Run(cfg))


def test_a_callback_that_lightning_refuses_is_told_in_a_line(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "watching.py").write_text(
        "from lightning.pytorch import Callback\n"
        "from lightning.fabric.utilities.exceptions import MisconfigurationException\n\n"
        "class Refused(Callback):\n"
        "    def on_fit_start(self, *_):\n"
        "        raise MisconfigurationException('needs a validation loop!')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("QUANTBOOTH_TRUST", "watching")
    cfg = compose(tmp_path, *QUICK)
    with open_dict(cfg):
        cfg.callbacks = {"mine": {"_target_": "watching.Refused"}}
    calibrate(Run(cfg))
    with pytest.raises(UserError, match=r"^Lightning refuses the tuning: needs a validation loop; change callbacks or"):
        tune(Run(cfg))


def test_two_callbacks_whose_states_have_one_name_are_refused(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTBOOTH_TRUST", "lightning.pytorch.callbacks")
    cfg, timer = compose(tmp_path, *QUICK), {"_target_": "lightning.pytorch.callbacks.Timer"}
    with open_dict(cfg):
        cfg.callbacks = {"one": {**timer, "interval": "step"}, "other": {**timer, "interval": "epoch"}}
    with pytest.raises(UserError, match=r"^callbacks\.other and callbacks\.one both have the state_key Timer; leave"):
        tune(Run(cfg))
