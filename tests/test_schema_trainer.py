"""The options of Lightning's Trainer: each is honoured, or refused with a reason."""

import inspect

import pytest
from lightning.pytorch import Trainer

from quantbooth.kinds import shown
from quantbooth.runtime.explain import explain
from quantbooth.runtime.options import mistakes
from quantbooth.schema import FIELDS

NOT_HONOURED = {
    **{"max_steps": 3, "min_steps": 3, "max_epochs": 1, "min_epochs": 1, "max_time": "00:00:00:05"},
    **{"limit_train_batches": 0.5, "limit_val_batches": 1, "limit_test_batches": 1, "limit_predict_batches": 1},
    **{"overfit_batches": 1, "fast_dev_run": True, "barebones": True, "benchmark": True, "inference_mode": False},
    **{"strategy": "ddp", "num_nodes": 2, "sync_batchnorm": True, "use_distributed_sampler": False},
    **{"devices": [0, 1], "logger": True, "callbacks": [], "plugins": [], "profiler": "simple"},
    **{"enable_checkpointing": True, "val_check_interval": 1, "check_val_every_n_epoch": 1, "num_sanity_val_steps": 1},
    **{"gradient_clip_val": -1, "gradient_clip_algorithm": "both", "accumulate_grad_batches": 0},
    **{"accumulate_grad_batches": {0: 2}, "default_root_dir": "here", "reload_dataloaders_every_n_epochs": 1},
}


@pytest.mark.parametrize("option", NOT_HONOURED)
def test_an_option_of_the_trainer_that_is_not_honoured_is_refused_by_name(option: str) -> None:
    found = mistakes({"trainer": {option: NOT_HONOURED[option]}})
    assert list(found) == [f"trainer.{option}"]
    assert found[f"trainer.{option}"].endswith(f", got {shown(NOT_HONOURED[option])}")


def test_every_argument_of_lightnings_trainer_is_in_the_schema_and_a_misspelt_one_is_answered() -> None:
    known = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    assert set(FIELDS["trainer"]) == known
    (line,) = mistakes({"trainer": {"gradient_clip_vall": 1}}).values()
    assert "trainer.gradient_clip_vall" in line and "did you mean 'trainer.gradient_clip_val'?" in line


def test_an_option_of_the_trainer_that_no_config_has_is_answered_with_a_plus_or_its_reason() -> None:
    def line(option: str, config_name: str = "quantbooth") -> str:
        return explain(ValueError(f"Could not override '{option}'.\nKey is not in struct"), config_name)

    assert "+trainer.gradient_clip_val=" in line("trainer.gradient_clip_val")
    assert line("trainer.max_steps") == "trainer.max_steps must be left out (tuner.steps ends a run)"
    assert line("trainer.colour").startswith("unknown option 'trainer.colour'")
    assert line("trainer.max_steps", "data").startswith("unknown option")
