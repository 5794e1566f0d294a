"""Which layers keep their output is found before the first step, where layers cannot see it, and goes on with a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from quantbooth.quant.layers import quantized_layers
from quantbooth.store.store import Draft
from quantbooth.tuning.callbacks import Checkpoints
from quantbooth.tuning.checkpoints import Unfinished
from quantbooth.tuning.kept_outputs import KeptOutputs
from quantbooth.tuning.module import TuningModule

NewStage = Callable[..., TuningModule]
Fit = Callable[..., Any]


def marked(stage: TuningModule) -> list[str]:
    return [name for name, one in quantized_layers(stage.denoiser) if one.small_bias]


class Killed(Exception):
    """Somebody ended the process."""


class Kill(Callback):
    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == 2:
            raise Killed


def test_layers_are_marked_in_bfloat16_and_not_where_they_see_for_themselves(new_stage: NewStage, fit: Fit) -> None:
    plain, half = new_stage(steps=1), new_stage(steps=1)
    fit(plain, [KeptOutputs()])
    fit(half, [KeptOutputs()], precision="bf16-mixed")
    assert not marked(plain)
    with_bias = [name for name, one in quantized_layers(half.denoiser) if one.bias is not None]
    assert 0 < len(marked(half)) <= len(with_bias)
    assert set(marked(half)) <= set(with_bias)


def test_looking_changes_no_bit_of_a_run_whose_layers_keep_u(
    new_stage: NewStage, fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantbooth.quant.small_biases.MOST", -1.0)
    looked, without = new_stage(steps=2), new_stage(steps=2)
    fit(looked, [KeptOutputs()], precision="bf16-mixed")
    fit(without, precision="bf16-mixed")
    assert not marked(looked)
    assert all(torch.equal(one, other) for one, other in zip(looked.numbers, without.numbers, strict=True))


def test_a_run_that_goes_on_keeps_what_was_found(new_stage: NewStage, fit: Fit, tmp_path: Path) -> None:
    part = Unfinished([Draft(tmp_path / "draft", tmp_path / "sets" / "mug-1", "1")]).part(0)
    through, ended, resumed = (new_stage(steps=4) for _ in range(3))
    fit(through, [KeptOutputs()], precision="bf16-mixed")
    with pytest.raises(Killed):
        fit(ended, [KeptOutputs(), Checkpoints(part, ended, 0), Kill()], precision="bf16-mixed")
    found = part.latest()
    assert found is not None
    for one in resumed.numbers:  # sets far from the base, whose biases would be judged differently
        one.data.mul_(1e-3)
    fit(resumed, [KeptOutputs(), Checkpoints(part, resumed, 3600, found)], precision="bf16-mixed")
    assert marked(resumed) == marked(through) != []
    assert all(torch.equal(one, other) for one, other in zip(resumed.numbers, through.numbers, strict=True))
