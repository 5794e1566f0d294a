"""The trainer: Lightning's, and its refusals in one line."""

from typing import Any

import pytest
from lightning.pytorch import Trainer

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.lightning import trainer


def test_settings_reach_lightning() -> None:
    made = trainer(accelerator="cpu", max_steps=7, logger=False, enable_checkpointing=False)
    assert isinstance(made, Trainer)
    assert made.max_steps == 7


def test_what_this_machine_cannot_do_is_one_line() -> None:
    with pytest.raises(UserError) as caught:
        trainer(accelerator="cpu", fast_dev_run=-1)
    assert "fast_dev_run=-1" in str(caught.value)
    assert "choose trainer=cpu" in str(caught.value) and "trainer.* options" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_processes_share_only_work_that_may_be_divided() -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    assert trainer(devices=3, **quiet).world_size == 1
    shared = trainer(shared=True, devices=3, **quiet)
    assert (shared.world_size, shared.strategy.launcher._start_method) == (3, "fork")  # type: ignore[union-attr]
    assert trainer(shared=True, devices=1, **quiet).world_size == 1


def test_sharing_is_offered_on_cpus_only() -> None:
    told = r"^trainer\.devices must be 1 .*got 2"
    with pytest.raises(UserError, match=told):
        trainer(shared=True, accelerator="gpu", devices=2)
