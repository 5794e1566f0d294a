"""Former names of a command and of options are answered in one line with the new name."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quantbooth.programs import damage, degradation


def ended(program: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        program()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_the_former_command_names_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "quantbooth-damage has another name: quantbooth-degradation" in ended(damage, capsys)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("damage.shown", "degradation.shown"),
        ("damage.beside", "degradation.compare_with"),
        ("calibration.search.norm", "calibration.search.lp_norm"),
        ("+calibration.activations.norm", "calibration.activations.lp_norm"),
    ],
)
def test_a_former_option_names_the_new_one(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["quantbooth-degradation", f"{old}=3"])
    assert f"option '{old.lstrip('+')}' has another name: {new}" in ended(degradation, capsys)
