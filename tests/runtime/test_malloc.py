"""Malloc's settings: a command starts once more with them, and nothing else does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantbooth.runtime.malloc import SETTINGS, VARIABLE, restart_with_settings, settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="settings of glibc")
PROGRAM = """
import sys
print("begun", sys.argv[1:])
from quantbooth.runtime import malloc
malloc.restart_with_settings()
import os
print(os.environ.get(malloc.VARIABLE))
"""


def run(program: str, **more: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE} | more
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_a_command_starts_once_more_and_keeps_its_words(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-m", "quantbooth.programs", "tune", "seed=nowhere"]
    found = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 2
    assert "nowhere" in found.stderr
    assert found.stderr.count("quantbooth:") == 1


def test_a_script_of_the_package_starts_once_more_with_all_settings(tmp_path: Path) -> None:
    script = tmp_path / "quantbooth-something"
    script.write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, str(script), "a word", "-x"]
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert found.stdout == "begun ['a word', '-x']\n" * 2 + settings() + "\n"


def test_other_programs_and_set_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    restart_with_settings()  # this test goes on
    assert VARIABLE not in os.environ
    assert run(PROGRAM) == "begun []\nNone\n"
    assert run(PROGRAM, **{VARIABLE: "glibc.malloc.perturb=0"}) == "begun []\nglibc.malloc.perturb=0\n"


@pytest.mark.parametrize(
    "watching",
    [
        "import sys; sys.settrace(lambda *_: None)",
        "import sys; sys.setprofile(lambda *_: None)",
        "import threading, time; threading.Thread(target=time.sleep, args=(1,), daemon=True).start()",
    ],
)
def test_a_command_that_another_program_runs_is_not_started_again(tmp_path: Path, watching: str) -> None:
    script = tmp_path / "quantbooth-something"
    script.write_text(watching + PROGRAM)
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    found = subprocess.run(
        [sys.executable, str(script)], env=environment, check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert found.stdout == "begun []\nNone\n"


def test_settings_are_those_that_glibc_knows() -> None:
    assert all(name.startswith("glibc.malloc.") for name in SETTINGS)
    assert settings().count("=") == len(SETTINGS)
