"""The trainer: Lightning's, and its refusals in one line."""

import pytest
from lightning.pytorch import Trainer

from quantbooth.errors import UserError
from quantbooth.stages.trainers import trainer


def test_settings_reach_lightning() -> None:
    made = trainer(accelerator="cpu", max_steps=7, logger=False, enable_checkpointing=False)
    assert isinstance(made, Trainer)
    assert made.max_steps == 7


def test_what_this_machine_cannot_do_is_one_line() -> None:
    with pytest.raises(UserError) as caught:
        trainer(accelerator="cpu", fast_dev_run=-1)
    assert str(caught.value).startswith("the trainer cannot be had: fast_dev_run=-1")
    assert str(caught.value).endswith("; choose trainer=cpu, or mend trainer.* options")
    assert "\n" not in str(caught.value)
