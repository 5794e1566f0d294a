"""--help says what a command does, which choices each group has, and the options used most; all of it from conf/."""

import subprocess
import sys
from pathlib import Path

import pytest

from quantbooth.runtime.config import conf_dir
from quantbooth.runtime.help import MOST_USED, help_text, options_of, read_groups, with_inherited


def run(module: str, *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_package_itself_runs_and_prints_the_help_of_the_chain() -> None:
    text = run("quantbooth", "--help")
    assert text.startswith("quantbooth: calibrate, tune, sample and evaluate")
    assert "quantbooth -m subject=" in text
    for group in read_groups(conf_dir(), "quantbooth"):
        assert f"\n  {group.name} " in text
    assert all(f"\n  {key} " in text for key in MOST_USED)
    assert max(map(len, text.splitlines())) <= 120


def test_the_help_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    doc = f"quantbooth-export: {'words ' * 30}\n\nquantbooth-export a=1{' ' * 30}# {'words ' * 10}"
    lines = help_text(doc, conf_dir(), "quantbooth").splitlines()
    assert max(map(len, lines)) <= 80
    assert "quantbooth-export a=1" in lines


def test_hydras_own_help_stays() -> None:
    assert "Hydra" in run("quantbooth", "--hydra-help")


def test_every_choice_of_a_group_is_listed_with_the_default_first(tmp_path: Path) -> None:
    (tmp_path / "quant").mkdir()
    for name in ("w2", "w4", "w8"):
        (tmp_path / "quant" / f"{name}.yaml").write_text("bits: 4")
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "s1.yaml").write_text("")
    (tmp_path / "main.yaml").write_text("defaults:\n  - quant: w4\n  - method: null\n  - _self_\nseed: 0  # of all\n")
    (tmp_path / "child.yaml").write_text("defaults:\n  - main\n  - override quant: w8\nchild: {}\n")
    text = help_text("quantbooth-child: what it does.", tmp_path, "child")
    assert "  quant   w8, w2, w4\n" in text
    assert "  method  s1\n" in text
    assert [group.default for group in read_groups(tmp_path, "main")] == ["w4", None]


def test_a_command_shows_its_own_section_and_not_those_of_others() -> None:
    text = help_text("quantbooth-export: files for other tools.", conf_dir(), "quantbooth")
    assert "\n  export.format " in text
    assert "\n  report.scores " not in text


@pytest.mark.parametrize(
    ("line", "key", "value", "meaning"),
    [
        ("a: 1   # why", "a", "1", "why"),
        ("a: [1, 2]", "a", "[1, 2]", ""),
        ("a: '#fff'  # a colour", "a", "'#fff'", "a colour"),
        ("a: >-  # a long text\n  first\n  second", "a", "...", "a long text"),
        ("a: ???", "a", "???", ""),
        ("a:\n  b: 2  # inner", "a.b", "2", "inner"),
    ],
)
def test_an_option_is_its_key_its_value_and_its_comment(
    tmp_path: Path, line: str, key: str, value: str, meaning: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"defaults: []\n_target_: x.y\n{line}\nhydra:\n  run: 1\n")
    (option,) = options_of(file)
    assert (option.key, option.value, option.meaning) == (key, value, meaning)


def test_a_choice_has_the_options_it_inherits_and_shared_files_are_no_choices(tmp_path: Path) -> None:
    (tmp_path / "tuner").mkdir()
    (tmp_path / "tuner" / "_base.yaml").write_text("name: ???\nsteps: 200  # of the optimizer\n")
    (tmp_path / "tuner" / "scales.yaml").write_text("defaults:\n  - _base\n\nname: scales\nbiases: false\n")
    (tmp_path / "main.yaml").write_text("defaults:\n  - tuner: scales\n  - _self_\n")
    assert [
        (option.key, option.value, option.meaning) for option in with_inherited(tmp_path / "tuner" / "scales.yaml")
    ] == [
        ("name", "scales", ""),
        ("steps", "200", "of the optimizer"),
        ("biases", "false", ""),
    ]
    (group,) = read_groups(tmp_path, "main")
    assert group.choices == ("scales",)
