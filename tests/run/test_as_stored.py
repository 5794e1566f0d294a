"""quant=as_stored and what does not go with it, refused with option and value before any work."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from quantbooth import programs
from quantbooth.run.planned import require_planned
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError

Compose = Callable[..., DictConfig]
STORED = ("quant=as_stored", "base=folder", "base.resolution=32")


@pytest.fixture
def stored_folder(base_folder: Path, tmp_path: Path) -> Path:
    """The tiny base, which says that torchao quantized it; nothing here reads its weights."""
    folder = tmp_path / "base"
    shutil.copytree(base_folder, folder)
    file = folder / "unet" / "config.json"
    said = {"quantization_config": {"quant_method": "torchao"}}
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
    return folder


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes every package for installed."""
    monkeypatch.setattr("quantbooth.diffusion.stored.find_spec", lambda name: name)


def test_nothing_is_calibrated_and_the_base_is_the_identity(
    compose: Compose, stored_folder: Path, tmp_path: Path
) -> None:
    run = Run(compose(tmp_path / "out", *STORED, f"base.path={stored_folder}"))
    run.check("quantized_base", "tuner", "strategy")
    assert run.quantized_base is None
    assert (run.calibration.stored, run.calibration.bits, run.calibration.quantized) == (True, None, True)
    assert run.only.tuned.identity["base"] == run.base_fingerprint
    assert run.method.startswith("baseline")


def test_a_float_base_is_refused(compose: Compose, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"quant=as_stored .* float; choose quant=w4"):
        Run(compose(tmp_path / "out", *STORED)).check("base_folder")


@pytest.mark.parametrize("quant", ["w4", "fp"])
def test_another_quant_of_a_stored_base_is_refused(
    compose: Compose, stored_folder: Path, tmp_path: Path, quant: str
) -> None:
    options = (*STORED, f"base.path={stored_folder}", f"quant={quant}")
    with pytest.raises(UserError, match="by torchao already; choose quant=as_stored"):
        Run(compose(tmp_path / "out", *options)).check("base_folder")


@pytest.mark.parametrize(
    "option",
    [
        *("quant.bits=4", "quant.act_bits=8", "quant.softmax_bits=16", "quant.symmetric=true"),
        *("quant.split_skips=true", "quant.include=[mid*]", "quant.exclude=[conv_in]", "quant.exclude=null"),
    ],
)
def test_options_of_a_quantization_are_refused(
    compose: Compose, stored_folder: Path, tmp_path: Path, option: str
) -> None:
    run = Run(compose(tmp_path / "out", *STORED, f"base.path={stored_folder}", option))
    with pytest.raises(UserError) as error:
        run.check("quantized_base")
    assert option.replace("[", "['").replace("]", "']") in str(error.value)
    assert "quant=as_stored" in str(error.value)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("tuner=lora", "tuner=lora"),
        ("tuner=qlora", "tuner=qlora"),
        ("tuner=qa_lora", "tuner=qa_lora"),
        ("tuner=full", "tuner=full"),
        ("tuner=scales_lora", "tuner=scales_lora"),
        ("tuner.group_size=4", "tuner.group_size=4"),
    ],
)
def test_tuners_of_other_weights_are_refused(
    compose: Compose, stored_folder: Path, tmp_path: Path, option: str, says: str
) -> None:
    run = Run(compose(tmp_path / "out", *STORED, f"base.path={stored_folder}", option))
    with pytest.raises(UserError) as error:
        run.check("tuner")
    assert says in str(error.value)
    assert "as_stored" in str(error.value)


def test_a_plan_and_added_loras_are_refused(compose: Compose, stored_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"quantbooth-plan .*quant=as_stored"):
        require_planned(Run(compose(tmp_path / "out", *STORED, f"base.path={stored_folder}")))
    file = tmp_path / "style.safetensors"
    file.touch()
    with pytest.raises(UserError, match=r"lora=.*style.*quant=as_stored"):
        Run(compose(tmp_path / "out", *STORED, f"base.path={stored_folder}", f"lora=[{file}]")).check("loras")


@pytest.mark.parametrize(
    ("program", "words", "says"),
    [
        (programs.pipeline, ("calibration=minmax",), "calibration=minmax has no effect"),
        (programs.pipeline, ("calibration.search.points=3",), "calibration.search.points=3 has no effect"),
        (programs.calibrate, (), "quantbooth-calibrate needs"),
        (programs.export, ("export.step=0",), "quantbooth-export needs"),
        (programs.degradation, (), "quantbooth-degradation needs"),
        (programs.probe, (), "quantbooth-probe needs a float base"),
    ],
)
@pytest.mark.chain
def test_commands_refuse_in_one_line(
    typed: Callable[..., tuple[int, str]],
    stored_folder: Path,
    program: Callable[[], None],
    words: tuple[str, ...],
    says: str,
) -> None:
    code, complaint = typed(program, *STORED, f"base.path={stored_folder}", *words)
    assert code == 2
    assert says in complaint
    assert complaint.count("\n") <= 1
