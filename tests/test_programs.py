"""The commands on the path: help, the version and a refused option answer before torch is imported."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from quantbooth.programs import PROGRAMS

ROOT = Path(__file__).parents[1]
TYPED = """
import sys
from quantbooth.programs import PROGRAMS
sys.argv = ["quantbooth", *sys.argv[2:]]
try:
    PROGRAMS["{name}"]()
except SystemExit as ended:
    print(ended.code, sorted({{"torch", "lightning", "diffusers"}} & set(sys.modules)))
"""


def typed(folder: Path, name: str, *words: str) -> tuple[str, str]:
    """Return the last line of the output and the error output of a command."""
    call = [sys.executable, "-c", TYPED.format(name=name), "--", *words]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=60)
    return done.stdout.splitlines()[-1], done.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_waits_for_no_library(name: str, tmp_path: Path) -> None:
    assert typed(tmp_path, name, "--help") == ("0 []", "")


@pytest.mark.parametrize("words", [["tuner.steps=-1"], ["-m", "seed=1,x"], ["nope=1"], ["--nope"]])
def test_a_refused_option_waits_for_no_library(words: list[str], tmp_path: Path) -> None:
    ended, said = typed(tmp_path, "tune", *words)
    assert (ended, said.count("\n")) == ("2 []", 1)


def test_every_program_is_installed_by_its_name() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    installed = {target.partition(":")[2]: name for name, target in scripts.items() if "quantbooth.programs" in target}
    expected = {name: "quantbooth" if name == "pipeline" else f"quantbooth-{name}" for name in (*PROGRAMS, "damage")}
    assert installed == expected


@pytest.mark.parametrize("words", [[], ["tunes"]])
def test_an_unknown_command_is_named_in_one_line(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "quantbooth.programs", *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert all(name in done.stderr for name in [*words, *PROGRAMS])
