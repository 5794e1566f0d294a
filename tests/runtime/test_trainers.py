"""The trainer: Lightning's, and its refusals in one line."""

import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.lightning import Bar, _divided, trainer
from quantbooth.runtime.processes import Share


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


@pytest.mark.parametrize("name", ["PL_TRAINER_ACCUMULATE_GRAD_BATCHES", "PL_TRAINER_PRECISION"])
def test_options_in_the_environment_are_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning takes them where nothing else is given, and results would have the name of other options."""
    monkeypatch.setenv(name, "7")
    with pytest.raises(UserError, match=f"^{name} in the environment"):
        trainer(accelerator="cpu")


def test_a_precision_that_lightning_replaces_is_refused() -> None:
    """On CPUs it computes 16-mixed in bf16-mixed, and only warns: artifacts would have a wrong name."""
    with pytest.raises(UserError, match="16-mixed is bf16-mixed"):
        trainer(accelerator="cpu", precision="16-mixed")


def test_the_chosen_card_is_the_current_one_and_is_asked_for_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]
    monkeypatch.setattr(torch.cuda, "set_device", lambda chosen: current.append(chosen.index))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: current[-1] == 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: f"card {current[-1]}")
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    for number in (0, 1):
        monkeypatch.setattr("quantbooth.runtime.lightning.root_device", lambda _, n=number: torch.device("cuda", n))
        with nullcontext() if number == 0 else pytest.raises(UserError, match="card 1.*trainer.precision"):
            trainer(precision="bf16-mixed", **quiet)


def test_a_bar_that_is_not_wanted_is_left_out() -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    kept = [
        [type(one) for one in trainer(enable_progress_bar=on, callbacks=[Bar("x"), Notes()], **quiet).callbacks]  # type: ignore[attr-defined]
        for on in (True, False)
    ]
    assert [Bar in kinds for kinds in kept] == [True, False]
    assert all(Notes in kinds for kinds in kept)


@pytest.mark.parametrize("each", [1, 3])
def test_the_bar_counts_every_batch_of_a_training(each: int, capsys: pytest.CaptureFixture[str]) -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer(accelerator="cpu", max_steps=2, accumulate_grad_batches=each, callbacks=[Bar("training")], **quiet).fit(
        BoringModel()
    )
    assert f"training: {2 * each}/{2 * each} in " in capsys.readouterr().err


def test_several_processes_share_only_work_that_may_be_divided() -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    assert trainer(devices=3, **quiet).world_size == 1
    shared = trainer(shared=True, devices=3, **quiet)
    assert (shared.world_size, shared.strategy.launcher._start_method) == (3, "fork")  # type: ignore[union-attr]
    assert trainer(shared=True, devices=1, **quiet).world_size == 1


def test_more_gpus_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for shared in (True, False):
        with pytest.raises(UserError, match=r"^trainer\.devices=2 needs .* found 1;"):
            trainer(shared=shared, accelerator="gpu", devices=2)


def test_one_of_several_gpus_draws_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [_divided({"accelerator": "gpu", "devices": 2}, shared, None) for shared in (True, True, False)] == [
        {"devices": 1}
    ] * 3
    assert capsys.readouterr().err.count("trainer.devices=2") == 1


def test_processes_of_one_training_are_not_started_by_lightning() -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    for rank in (1, 0):  # the last one is that of this process from now on
        made = trainer(share=Share(rank, 2, "file:///nowhere", 1), devices=1, **quiet)
        assert (made.world_size, made.global_rank, made.local_rank) == (2, rank, rank)
        assert made.strategy.cluster_environment.creates_processes_externally  # type: ignore[attr-defined]
        assert not made._accelerator_connector.use_distributed_sampler


SLURM = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "sweep", "SLURM_NTASKS": "4", "SLURM_PROCID": "3"}
SLURM |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "4"}


class Notes(Callback):
    """Notes the handlers of signals and the weights with which a training begins."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.handler, self.step = signal.getsignal(signal.SIGUSR1), trainer.global_step
        self.weight = next(pl_module.parameters()).detach().clone()


def test_in_a_slurm_job_no_state_of_another_run_is_taken_and_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in SLURM.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)
    assert SLURMEnvironment.detect()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"accelerator": "cpu", "max_steps": 2, "enable_checkpointing": False}
    other = BoringModel()
    foreign = trainer(**{**quiet, "max_steps": 1})
    foreign.fit(other)
    foreign.save_checkpoint(tmp_path / "hpc_ckpt_1.ckpt")
    own, notes = BoringModel(), Notes()
    expected = next(own.parameters()).detach().clone()
    before = signal.getsignal(signal.SIGUSR1)
    made = trainer(**quiet, callbacks=[notes])
    made.fit(own)
    assert (made.global_rank, made.world_size) == (0, 1)
    assert notes.handler is before
    assert notes.step == 0
    assert torch.equal(notes.weight, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["hpc_ckpt_1.ckpt"]
