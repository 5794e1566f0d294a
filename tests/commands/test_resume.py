"""A tuning that is interrupted goes on from its last checkpoint, and ends with the bytes of one that never was."""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
from omegaconf import DictConfig
from torch import Tensor

from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.tune import tune
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.checkpoints import Part
from quantbooth.tuning.module import TuningModule

pytestmark = pytest.mark.chain

Configure = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "prior=none", "tuner.steps=6"),
    *("preview.validation_steps=0", "protocol.prompt_stride=25", "protocol.eval_steps=[2,5]"),
    *("resources.checkpoint_every=0", "trainer.log_every_n_steps=1"),
)
APART = ("strategy=s2", "strategy.apart=true")
RICH = ("tuner=scales_in_out", "tuner.biases=true", "tuner.norms=true", "tuner.ema_decay=0.9", "tuner.identifier=true")
RUNS = {
    "scales": (),
    "constant": ("tuner.lr_scheduler=constant", "optimizer.weight_decay=0.1"),
    "prior": ("prior.num_class_images=2", "prior.class_batch_size=1", "prior.loss_weight=1.0"),
    "s2": ("strategy=s2", *RICH),
    "experts apart": (*APART, "tuner.ema_decay=0.5"),
    "halved experts apart": (*APART, "resources.save_dtype=float16"),
    "lora": ("method=lora", "tuner.identifier=true", "tuner.ema_decay=0.9"),
    "qlora of experts": ("tuner=qlora", "strategy=s2"),
    "float": ("method=float", "tuner.ema_decay=0.9"),
    "graded": ("strategy=graded", "tuner.ema_decay=0.9"),
    "two sets added": ("tuner=qlora", "strategy=s1s2"),
    "branching": ("strategy=s2_from_s1", *RICH),
    "branching adapters": ("tuner=qlora", "strategy=s2_from_s1", "strategy.shared_steps=5"),
    "two subjects": ("subjects=[toy_mug,toy_duck]", "strategy=s2"),
    "sgd": ("optimizer.name=sgd", "+optimizer.momentum=0.9"),
}


LONG = ("constant", "halved experts apart", "qlora of experts", "graded", "sgd")
"""What other RUNS do in other combinations."""


class KilledError(RuntimeError):
    """Stands for the end of a process."""


class Killed:
    """Counts the steps of all trainings, and ends the process in one of them; only the first time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[int] = []
        self.at: int | None = None
        inner = TuningModule.training_step

        def step(module: TuningModule, number: int) -> object:
            self.steps.append(module.global_step)
            if len(self.steps) == self.at:
                raise KilledError
            return inner(module, number)

        monkeypatch.setattr(TuningModule, "training_step", step)


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Killed:
    return Killed(monkeypatch)


@pytest.fixture(scope="module")
def configure(compose: Callable[..., DictConfig], tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration on a tiny untrained base that is quantized already."""
    make = partial(compose, tmp_path_factory.mktemp("resume") / "out", *QUICK)
    calibrate(Run(make()))
    return make


@pytest.fixture
def stores(configure: Configure, tmp_path: Path) -> Callable[..., list[Run]]:
    """Makes runs of the same options in stores of their own, with the same quantized base."""

    def make(*words: str) -> list[Run]:
        places = [f"paths.store={tmp_path}/{name}" for name in ("through", "stopped")]
        cfgs = [configure(*words, place, f"paths.logs={place[12:]}-logs") for place in places]
        for cfg in cfgs:
            shutil.copytree(configure().paths.store, cfg.paths.store)
        return [Run(cfg) for cfg in cfgs]

    return make


def tuned_files(folders: list[Path]) -> dict[str, bytes]:
    files = [file for folder in folders for file in folder.glob("*.safetensors")]
    return {f"{file.parent.name}/{file.name}": file.read_bytes() for file in files}


def narrowed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor[:, :1] for name, tensor in tensors.items() if tensor.ndim > 1}


def unfinished(run: Run) -> list[Path]:
    return sorted((run.store.root / "unfinished").rglob("*.safetensors"))


def seen(run: Run) -> list[list[int]]:
    """What the experts of each subject saw."""
    return [one.tuned.manifest().measured["samples_per_expert"] for one in run.subjects]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else []) for name in RUNS])
def test_a_run_that_was_killed_ends_with_the_bytes_of_one_that_was_not(
    stores: Callable[..., list[Run]], killed: Killed, name: str
) -> None:
    through, stopped = stores(*RUNS[name])
    expected = tuned_files(tune(through))
    ordered, killed.steps = killed.steps, []
    killed.at = len(ordered) - 2
    with pytest.raises(KilledError):
        tune(stopped)
    assert unfinished(stopped)
    done, killed.steps, killed.at = killed.steps, [], None
    assert tuned_files(tune(stopped)) == expected
    assert seen(stopped) == seen(through)
    shared = stopped.strategy.shared_steps * stopped.recipe.batch  # each is one of every expert
    samples = stopped.recipe.samples_seen * len(stopped.strategy.runs) + shared * (stopped.strategy.sets - 1)
    samples *= 1 if stopped.strategy.wide is None else 2  # one of its zone's expert, and one of the wide set
    assert [sum(one) for one in seen(stopped)] == [samples] * len(stopped.subjects)
    assert done[:-1] + killed.steps == ordered  # the step in which it was killed, and none before
    assert len(expected) == 3 * len(stopped.subjects)
    assert not list(stopped.store.root.glob("unfinished/*"))


def test_a_run_that_accumulates_goes_on_at_the_beginning_of_its_step(
    stores: Callable[..., list[Run]], killed: Killed
) -> None:
    through, stopped = stores("strategy=s2", "tuner.ema_decay=0.9", "+trainer.accumulate_grad_batches=3")
    expected = tuned_files(tune(through))
    killed.steps, killed.at = [], 14
    with pytest.raises(KilledError):
        tune(stopped)
    assert killed.steps == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]
    killed.steps, killed.at = [], None
    assert tuned_files(tune(stopped)) == expected
    assert killed.steps == [4, 4, 4, 5, 5, 5]
    assert seen(stopped) == seen(through)
    assert sum(seen(stopped)[0]) == stopped.recipe.samples_seen == 6 * 3 * stopped.recipe.batch


def test_a_run_that_is_killed_in_every_step_ends_with_the_same_bytes(
    stores: Callable[..., list[Run]], killed: Killed
) -> None:
    few = ("tuner.steps=3", "protocol.eval_steps=[2]")
    through, stopped = stores("strategy=s2", "tuner.ema_decay=0.9", *APART[1:], *few)
    expected = tuned_files(tune(through))
    for _ in range(8):
        killed.steps, killed.at = [], 2
        with pytest.raises(KilledError):
            tune(stopped)
    killed.steps, killed.at = [], None
    assert tuned_files(tune(stopped)) == expected
    assert killed.steps == [2]


def test_without_checkpoints_a_run_begins_anew(stores: Callable[..., list[Run]], killed: Killed) -> None:
    _, stopped = stores("resources.checkpoint_every=1000000")
    killed.at = 4
    with pytest.raises(KilledError):
        tune(stopped)
    killed.steps, killed.at = [], None
    tune(stopped)
    assert killed.steps == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "damage", ["flipped", *(pytest.param(one, marks=pytest.mark.slow) for one in ("cut", "emptied")), "snapshot"]
)
def test_a_damaged_checkpoint_is_named_and_the_run_begins_anew(
    stores: Callable[..., list[Run]], killed: Killed, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    through, stopped = stores()
    expected = tuned_files(tune(through))
    killed.steps, killed.at = [], 5
    with pytest.raises(KilledError):
        tune(stopped)
    (checkpoint,) = (path for path in unfinished(stopped) if path.name.startswith("checkpoint-000004-"))
    victim = checkpoint if damage != "snapshot" else checkpoint.with_name("step-000002.safetensors")
    data = victim.read_bytes()
    middle = len(data) // 2
    victim.write_bytes({"cut": data[:middle], "emptied": b""}.get(damage, data[:middle] + b"\0\1" + data[middle + 2 :]))
    killed.steps, killed.at = [], None
    capsys.readouterr()
    assert tuned_files(tune(stopped)) == expected
    assert killed.steps == [0, 1, 2, 3, 4, 5]
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith(f"quantbooth: {checkpoint} is left out: ")
    assert said.endswith("damaged; what it had is tuned again")


def test_a_checkpoint_of_other_subjects_is_not_taken(
    stores: Callable[..., list[Run]], killed: Killed, capsys: pytest.CaptureFixture[str], configure: Configure
) -> None:
    _, together = stores("subjects=[toy_mug,toy_duck]")
    killed.at = 5
    with pytest.raises(KilledError):
        tune(together)
    killed.steps, killed.at = [], None
    tune(Run(configure(f"paths.store={together.store.root}")))
    assert killed.steps == [0, 1, 2, 3, 4, 5]
    assert " is left out: its artifacts must be " in capsys.readouterr().err


def test_a_checkpoint_of_other_parameters_is_refused_by_name(
    stores: Callable[..., list[Run]], killed: Killed, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stopped = stores()
    killed.at = 4
    write = Part.write
    monkeypatch.setattr(
        Part, "write", lambda part, step, tensors, numbers: write(part, step, narrowed(tensors), numbers)
    )
    with pytest.raises(KilledError):
        tune(stopped)
    with pytest.raises(UserError, match=r"checkpoint-000003-\w+\.safetensors does not fit: .* remove it to start"):
        tune(stopped)
