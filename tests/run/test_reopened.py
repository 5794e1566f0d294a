"""Finished work by its name: its options need not be typed, free ones are taken, and what contradicts is refused."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from omegaconf import DictConfig

from quantbooth.commands import listing
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.tune import tune
from quantbooth.run.reopened import reopened
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.store.listing import digits_of

TUNED = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "prior=none", "strategy=s2", "tuner.steps=2"),
    *("preview.validation_steps=0", "protocol.eval_steps=[1]", "sampler.steps=3", "subject=toy_fish", "seed=5"),
    *("tag=mine", "tuner=scales"),
)
Compose = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reopened")


@pytest.fixture(scope="module")
def tuned(compose: Compose, place: Path) -> Path:
    run = Run(compose(place, *TUNED))
    calibrate(run)
    return tune(run)[0]


@pytest.fixture
def named(compose: Compose, place: Path, tuned: Path) -> Callable[..., Run]:
    """Opens the tuned artifact by its digits and words."""

    def make(*words: str, name: str = digits_of(tuned)[:6]) -> Run:
        given = [*words, f"scale_sets='{name}'"]
        cfg = compose(place, *given, *([] if "base=" in str(words) else ["base=folder"]))
        return reopened(cfg, given)[0]

    return make


def test_a_name_alone_is_the_whole_run(named: Callable[..., Run], compose: Compose, place: Path, tuned: Path) -> None:
    again, before = named(), Run(compose(place, *TUNED))
    assert again.only.tuned.require() == tuned
    assert again.only.scores(2).path == before.only.scores(2).path
    assert (again.settings["scale_sets"], again.steps) == (None, [0, 1, 2])
    assert named("prompt=a dog").settings["scale_sets"] == str(tuned)


@pytest.mark.parametrize("name", ["toy_fish-s2-mine-w4-seed5", "FOLDER"])
def test_a_label_and_a_folder_are_names(named: Callable[..., Run], tuned: Path, name: str) -> None:
    assert named(name=str(tuned) if name == "FOLDER" else name).only.tuned.require() == tuned


@pytest.mark.parametrize(
    "words",
    [
        ("strategy=s2",),
        ("subject=toy_fish", "tuner=scales", "tuner.steps=2", "base.resolution=32", "tag=mine", "seed=5"),
        (
            "strategy=s2",
            "strategy.apart=false",
            "base.zones.content=[354,934]",
            "prior=none",
            "quant=w4",
            "calibration=minmax",
        ),
        ("method=s2", "protocol.eval_steps=[1]", "resources.save_dtype=float32", "trainer=cpu"),
    ],
)
def test_what_agrees_may_be_typed(named: Callable[..., Run], tuned: Path, words: tuple[str, ...]) -> None:
    assert named(*words).only.tuned.require() == tuned


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("strategy=s1", "strategy s2"),
        ("strategy=s2_snr", "strategy s2"),
        ("strategy=s2 strategy.apart=true", "strategy.apart=false"),
        ("base.zones.content=[354,935]", r"base.zones.content=\[354, 934\]"),
        ("tuner=scales_in_out", "tuner scales"),
        ("tuner.steps=3", "tuner.steps=2"),
        ("subject=toy_mug", "subject toy_fish"),
        ("quant=w3", "quant w4"),
        ("quant.bits=8", "quant.bits=4"),
        ("calibration=mse", "calibration minmax"),
        ("prior=generated", "another prior"),
        ("optimizer.weight_decay=0.1", "optimizer.weight_decay=0.0"),
        ("+optimizer.amsgrad=true", "optimizer.amsgrad=null"),
        ("seed=0", "seed=5"),
        ("tag=other", "tag='mine'"),
        ("method=s1", "strategy s2"),
        ("method=lora", "quant w4"),
        ("base=sd15", "base folder"),
        ("base.resolution=64", "base.resolution=32"),
        ("protocol.eval_steps=[]", r"protocol.eval_steps=\[1\]"),
        ("resources.save_dtype=float16", "resources.save_dtype='float32'"),
        ("+trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches=1"),
    ],
)
def test_what_contradicts_is_refused_by_name(named: Callable[..., Run], tuned: Path, word: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        named(*word.split())
    start, said = f"{word.split()[-1]} contradicts {tuned.name}, which was tuned with ", str(caught.value)
    assert said.startswith(start) and said.endswith("; leave it out, or leave out scale_sets")
    assert said.removeprefix(start).partition(";")[0] == told.replace("\\", "")


def test_another_sweep_is_refused(named: Callable[..., Run]) -> None:
    with pytest.raises(
        UserError, match=r"^experiment=demo has settings of its own, scale_sets=\w+ is of one; leave out"
    ):
        named("experiment=demo")
    with pytest.raises(UserError, match=r"^preset=cpu has options of tuning too, which scale_sets=\w+ decides; "):
        named("preset=cpu")
    assert named("protocol.batch=1", "resources.memory_gb=8")  # those of a preset for drawing


def test_drawing_and_scoring_are_free(named: Callable[..., Run], tuned: Path) -> None:
    words = ("sampler=dpm", "protocol=dreambooth", "protocol.seeds=[4]", "locator=whole", "strength=0.5", "lora=[]")
    settings = named(*words, "scorer.mask_background=true", "logger=tensorboard", "negative_prompt=rain").settings
    assert (settings["sampler"]["scheduler"], settings["sampler"]["steps"]) == ("dpm", 25)
    assert (settings["protocol"]["seeds"], settings["protocol"]["eval_steps"]) == ([4], [1])
    assert settings["scorer"]["locator"] == settings["locator"] == {"_target_": settings["locator"]["_target_"]}
    assert settings["scorer"]["mask_background"] and settings["strength"] == 0.5
    assert named("sampler.guidance=2.0").settings["sampler"]["steps"] == 3
    assert named(*words).only.tuned.require() == tuned


def test_a_trainer_of_another_precision_draws_what_was_tuned(named: Callable[..., Run], tuned: Path) -> None:
    same, other = named("trainer=cpu"), named("trainer.precision=bf16-mixed")
    assert other.only.tuned.require() == tuned
    assert other.quantized_base and same.quantized_base and other.quantized_base.path == same.quantized_base.path
    assert other.only.images(2).identity == same.only.images(2).identity | {
        "drawn_with": {"trainer": {"precision": "bf16-mixed"}}
    }
    assert other.only.images(0).identity == same.only.images(0).identity | {"trainer": {"precision": "bf16-mixed"}}
    assert other.only.images(2).label == "toy_fish-s2-mine-w4-seed5-step2-in-bf16"
    assert (same.weights_name, other.weights_name) == ("w4", "w4-in-bf16")
    assert other.only.scores(2).path != same.only.scores(2).path


def test_another_trainer_leaves_the_options_of_training_as_they_were(compose: Compose, tmp_path: Path) -> None:
    run = Run(compose(tmp_path, *TUNED, "+trainer.accumulate_grad_batches=2"))
    calibrate(run)
    (tuned,) = tune(run)
    given = ["trainer=cpu", f"scale_sets='{digits_of(tuned)[:6]}'"]
    again, _ = reopened(compose(tmp_path, *given, "base=folder"), given)
    assert again.only.tuned.require() == tuned and again.only.scores(2).path == run.only.scores(2).path


def test_another_sampler_and_precision_look_for_the_same_tuning(compose: Compose, place: Path) -> None:
    words = [word for word in TUNED if word != "prior=none"] + ["prior=generated", "trainer.precision=bf16-mixed"]
    origin = Run(compose(place, *words))
    run = Run(compose(place, *words, "sampler=dpm", "trainer.precision=32-true"), origin)
    assert run.only.tuned.path == origin.only.tuned.path
    assert Run(run.cfg).only.tuned.path != origin.only.tuned.path
    assert run.only.images(1).identity["drawn_with"] == {} and run.weights_name == "w4-bf16-in-fp32"
    assert run.only.images(1).identity["tuned"] == origin.only.images(1).identity["tuned"]


def test_moved_files_are_named_again(named: Callable[..., Run], base_folder: Path, tmp_path: Path, tuned: Path) -> None:
    moved = shutil.copytree(base_folder, tmp_path / "moved")
    run = named("base=folder", f"base.path={moved}")
    assert (run.base_folder, run.only.tuned.require()) == (moved, tuned)


def test_two_stores_are_refused(named: Callable[..., Run], tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^scale_sets=\S+ is in the store \S+, got paths.store=\S+; leave out paths.store$"
    ):
        named(f"paths.store={tmp_path}", name=str(tuned))


def test_the_list_names_what_is_there(
    tuned: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(*words: str) -> list[str]:
        monkeypatch.setattr("sys.argv", ["quantbooth-list", *words])
        with pytest.raises(SystemExit, match="0"):
            listing.main()
        return capsys.readouterr().out.splitlines()

    monkeypatch.setenv("QUANTBOOTH_STORE", str(place / "store"))
    monkeypatch.setenv("COLUMNS", "120")  # a narrow terminal gets shortened cells
    head, row, last = lines("fish", "S2", "kind=scale_sets")
    assert head.split() == ["name", "kind", "subject", "method", "base", "quant", "steps", "seed", "date", "size"]
    assert row.split()[:8] == [digits_of(tuned)[:4], "scale_sets", "toy_fish", "s2-mine", "folder", "w4", "2", "5"]
    assert last == f"{place}/store: 1 of 1 artifacts"
    assert lines("duck") == [f"{place}/store: 0 of 2 artifacts"]
    assert partial(lines, f"paths.store={place}/store")()[-1].endswith("2 of 2 artifacts")
