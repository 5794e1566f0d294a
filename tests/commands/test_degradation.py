"""quantbooth-degradation on a tiny untrained base: what it leaves, what it never repeats, what it refuses."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import DictConfig

from composing import composed
from quantbooth import programs
from quantbooth.commands.degradation import check_job, conclude, degradation, job
from quantbooth.degradation.files import read_degradation
from quantbooth.degradation.measurement import Rows, compare_pictures
from quantbooth.run.degradation import Degradation
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.store.manifest import open_artifact
from stderr import complaints

pytestmark = pytest.mark.chain

Configure = Callable[..., DictConfig]
Command = Callable[..., tuple[int, str]]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=1", "degradation.predictions=3"),
    *(
        "degradation.pictures=2",
        "degradation.batch=2",
        "degradation.shown=2",
        "degradation.prompts=[a red mug,a duck on the beach]",
    ),
)


@pytest.fixture(scope="module")
def configure(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration; all share one store unless told otherwise."""
    outputs = tmp_path_factory.mktemp("outputs")

    def make(*overrides: str) -> DictConfig:
        return composed(*QUICK, f"base.path={base_folder}", f"paths.outputs={outputs}", *overrides, name="degradation")

    return make


@pytest.fixture
def command(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs the command as if typed, in this process; gives its exit code and what it wrote to stderr."""
    handlers = logging.root.handlers[:]

    def run(*given: str) -> tuple[int, str]:
        settings = [*QUICK, f"base.path={base_folder}", f"paths.outputs={tmp_path}/out", *given]
        monkeypatch.setattr(sys, "argv", ["quantbooth-degradation", *sorted(settings, key=lambda word: word != "-m")])
        with pytest.raises(SystemExit) as ended:
            programs.degradation()
        return int(str(ended.value.code)), complaints(capsys.readouterr().err)

    yield run
    logging.root.handlers[:] = handlers


def times(folder: Path) -> dict[str, int]:
    """When each file of finished artifacts was written."""
    return {str(file): file.stat().st_mtime_ns for file in folder.glob("store/*/*/**/*") if file.is_file()}


def test_a_setting_is_measured_beside_float_and_calibrated_on_the_way(configure: Configure) -> None:
    reference, folder = degradation(Run(configure("quant=w4")))
    fp, w4 = read_degradation(reference), read_degradation(folder)
    quantized = Run(configure("quant=w4")).parents["quantized_base"].manifest()
    assert fp.is_float
    assert fp.truth is None
    assert (w4.record.quant, w4.record.bits, w4.record.calibration) == ("w4", 4, "minmax")
    assert w4.record.left_float == ["conv_in", "conv_out"]
    assert w4.record.layers == len(fp.record.left_float) - 2
    assert w4.record.file_bytes == quantized.measured["file_bytes"] < fp.record.file_bytes
    assert w4.record.reference == open_artifact(reference, "damage").fingerprint == fp.record.reference
    assert open_artifact(folder, "damage").parents["quantized_base"] == quantized.fingerprint
    for found in (fp, w4):
        assert found.predictions.groupby("zone").size().to_dict() == {"clean_up": 3, "coarse": 3, "content": 3}
        assert found.pictures["text"].tolist() == ["a red mug", "a duck on the beach"]
    assert (fp.predictions["deviation"] == 0).all()
    assert (fp.pictures[["ssim", "mse"]] == [1.0, 0.0]).all(axis=None)
    assert (w4.predictions["deviation"] > 0).all()
    assert (w4.predictions["float_error"] == fp.predictions["error"]).all()
    same = ["zone", "place", "t", "text"]
    assert (w4.predictions[same] == fp.predictions[same]).all(axis=None)


def test_float_draws_as_many_pictures_as_its_predictions_need(configure: Configure) -> None:
    (reference,) = degradation(Run(configure("quant=fp")))
    assert len(list((reference / "pictures").iterdir())) == 3
    assert len(read_degradation(reference).pictures) == 2


def test_a_second_run_measures_nothing_anew(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = configure("quant=w4")
    first, before = degradation(Run(cfg)), times(Path(cfg.paths.outputs))

    def forbidden(*_: object) -> None:
        raise AssertionError("nothing is left to judge")

    monkeypatch.setattr("quantbooth.degradation.measurement.compare_pictures", forbidden)
    assert degradation(Run(cfg)) == first
    assert times(Path(cfg.paths.outputs)) == before


def test_the_same_settings_give_the_same_rows_elsewhere(configure: Configure, tmp_path: Path) -> None:
    for one, other in zip(
        degradation(Run(configure("quant=w4"))),
        degradation(Run(configure("quant=w4", f"paths.outputs={tmp_path}"))),
        strict=True,
    ):
        assert one.name == other.name
        for name in ("predictions.csv", "pictures.csv"):
            assert (one / name).read_bytes() == (other / name).read_bytes()


def test_a_sweep_that_was_killed_goes_on_and_writes_one_document(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, sweep = tmp_path / "out", ("-m", "quant=w2", "quant.exclude=[conv_in,conv_out],[]")
    calls = iter(range(100))

    def interrupted(*given: Any) -> Rows:
        if next(calls) == 2:  # the second quantized setting
            raise KeyboardInterrupt
        return compare_pictures(*given)

    with monkeypatch.context() as patch:
        patch.setattr("quantbooth.degradation.measurement.compare_pictures", interrupted)
        assert command(*sweep)[0] == 130
    before = times(out)
    assert len(list(out.glob("store/damage/*/record.json"))) == 2
    assert not (out / "damage").exists()
    assert command(*sweep) == (0, "")
    assert before.items() <= times(out).items()
    table = pd.read_csv(out / "degradation" / "table.csv", index_col="label")
    assert table.index.tolist() == ["float", "w2, conv_in + conv_out float", "w2, all quantized"]
    text = (out / "degradation" / "degradation.md").read_text()
    assert "Made by `quantbooth-degradation -m " in text
    assert "2 given prompts" in text


def test_earlier_measurements_are_shown_beside(configure: Configure, tmp_path: Path) -> None:
    earlier = degradation(Run(configure("quant=w8")))
    cfg = configure("quant=w2", f"degradation.compare_with=[{earlier[-1]}]", f"degradation.folder={tmp_path}")
    conclude([(cfg, degradation(Run(cfg)))])
    assert pd.read_csv(tmp_path / "table.csv", index_col="label").index.tolist() == ["float", "w8", "w2"]
    source = Run(cfg).parents["quantized_base"].require()
    with pytest.raises(UserError, match="must hold a measurement of degradation, found a quantized base"):
        degradation(Run(configure("quant=w2", f"degradation.compare_with=[{source}]")))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            "degradation.compare_with=[nowhere]",
            "nowhere must hold a measurement of degradation, found nothing; make it with quantbooth-degradation",
        ),
        ("quant=w5", "'quant' has no option 'w5'; choose from as_stored, fp, w2, w3, w4, w4a8, w8"),
        ("quant.bits=5", "quant.bits must be one of 2, 3, 4, 8, null, got 5"),
        ("~base.zones", "option 'base.zones' cannot be removed, got '~base.zones'"),
        (
            "degradation.prompts=[]",
            "degradation.prompts must be a list [a,b,...], not empty, each a text, or null, got []",
        ),
        ("degradation.pictures=1", "degradation.pictures must be a whole number from 2 to 1000000000, got 1"),
        ("degradation.document=null", "degradation.document must be a path, got null"),
        ("base.resolution=64", "base.resolution must be 32"),
        ("degradation.prompts=[a zeppelin]", "the toy scorer"),
    ],
)
def test_a_mistake_ends_in_one_line_and_2_before_any_work(
    command: Command, tmp_path: Path, given: str, line: str
) -> None:
    code, said = command(given)
    assert said.startswith(f"quantbooth: {line}")
    assert (code, said.count("\n")) == (2, 1)
    assert times(tmp_path / "out") == {}


def test_one_document_is_about_one_float_measurement_which_is_known_before_work(
    command: Command, tmp_path: Path
) -> None:
    code, said = command("-m", "quant=fp", "degradation.seed=1,2")
    assert code == 2
    assert [word in said for word in ("degradation.seed=1", "degradation.seed=2", "choice of questions")] == [0, 1, 1]
    assert not list(tmp_path.glob("out/store/*"))


def test_settings_of_one_document_need_one_float_measurement_alone(configure: Configure, tmp_path: Path) -> None:
    told = [check_job(configure(word)) for word in ("quant=w4", "quant=fp", "degradation.seed=1")]
    assert told[0] == told[1] != told[2] and told[0].keys() == told[2].keys()
    assert check_job(configure(f"degradation.folder={tmp_path}")).keys() != told[0].keys()


def test_identities_change_with_what_is_asked_only(configure: Configure) -> None:
    one = Degradation(Run(configure("quant=w4")))
    same = (
        "degradation.batch=1",
        "degradation.shown=1",
        "degradation.notes=[x]",
        "trainer.log_every_n_steps=1",
        "seed=3",
    )
    assert Degradation(Run(configure("quant=w4", *same))).artifact.identity == one.artifact.identity
    for other in ("degradation.seed=1", "sampler.steps=2", "base.zones.content=[354,900]", "quant.bits=8"):
        assert Degradation(Run(configure("quant=w4", other))).artifact.identity != one.artifact.identity
    assert Degradation(Run(configure("quant=fp", "calibration=mse"))).artifact.identity == one.reference.identity


def test_a_base_of_other_timesteps_is_refused(configure: Configure, tmp_path: Path) -> None:
    cfg = configure("quant=fp", "base.timesteps=2000", f"paths.outputs={tmp_path}")
    with pytest.raises(UserError, match="base.timesteps must be 1000, got 2000"):
        degradation(Run(cfg))
    assert not list(tmp_path.glob("store/damage/*"))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("degradation.prompts=[a red mug,A Red  mug]", "'A Red  mug'"),
        ("degradation.prompts=[a mug,a duck,a fish]", "degradation.pictures=2 leaves 1 of 3"),
        ("degradation.folder=pyproject.toml", "degradation.folder"),
        ("degradation.document=src", "degradation.document"),
        ("quant.exclude=['*']", "must leave a layer"),
        ("quant.include=[nothing]", "'nothing'"),
        ("lora=[x]", "lora"),
        ("strength=0.5", "strength=0.5"),
        ("unconditional_strength=0", "unconditional_strength=0"),
        ("negative_prompt=blue", "negative_prompt='blue'"),
        ("prompt=a mug", "prompt"),
        ("scale_sets=x", "scale_sets"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    configure: Configure, wrong: str, named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("quantbooth.commands.degradation.base_with", lambda *_: pytest.fail("the base was read"))
    with pytest.raises(UserError) as caught:
        job(configure(f"paths.outputs={tmp_path}", wrong))
    assert named in str(caught.value)


def test_a_measurement_of_other_questions_is_refused_before_any_work(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = degradation(Run(configure("quant=fp")))[0]
    monkeypatch.setattr("quantbooth.commands.degradation.base_with", lambda *_: pytest.fail("the base was read"))
    with pytest.raises(UserError, match=str(earlier)):
        job(configure("quant=w4", "degradation.seed=99", f"degradation.compare_with=[{earlier}]"))


def test_each_place_of_a_sweep_has_its_document(configure: Configure, tmp_path: Path) -> None:
    cfgs = [configure("quant=w4", f"degradation.folder={tmp_path / name}") for name in ("a", "b")]
    conclude([(cfg, degradation(Run(cfg))) for cfg in cfgs])
    assert all((tmp_path / name / "degradation.md").is_file() for name in ("a", "b"))
