"""Flags and words that Hydra would take without an effect, or end by itself, are refused in one line."""

import sys

import pytest

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.flags import checked_flags, package_found


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("-p tuner seed=1", "--package=tuner"),
        ("--info defaults --package seed", "--package=seed"),
        ("--cfg job -p tuner[0", "'tuner[0'"),
        ("--cfg job -p tuner..x", "'tuner..x'"),
        ("--info nonsense", "'nonsense'"),
        ("--hydra-help seed=1", "'seed=1'"),
        ("--cfg nonsense", "'nonsense'"),
        ("~base.folder._target_", "~base.folder._target_"),
        ("base.zones={}", "base.zones={}"),
        ("++base.zones={}", "++base.zones={}"),
        ("scorer={}", "scorer={}"),
        ("strength={}", "strength={}"),
        ("-m base.zones={a:[0,9]},{}", "base.zones={a:[0,9]},{}"),
        ("base={zones:{}}", "base={zones:{}}"),
    ],
)
def test_what_would_do_nothing_is_refused_by_name(words: str, named: str) -> None:
    with pytest.raises(UserError) as caught:
        checked_flags(words.split(), "quantbooth")
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "words",
    ["--cfg job -p tuner.include[0]", "base.zones={a:[0,9]}", "~base.zones.content", "hydra.sweeper.params={}", "x={"],
)
def test_what_has_an_effect_is_left_to_hydra(words: str) -> None:
    checked_flags(words.split(), "quantbooth")


@pytest.mark.parametrize("flags", [["--cfg", "job", "-p", "nope"], ["--cfg", "hydra", "-p", "seed"]])
def test_a_package_that_is_not_there_is_named(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(UserError, match=f"{flags[-1]} .*--cfg {flags[1]} alone"),
        package_found(checked_flags(flags, "")),
    ):
        sys.stderr.write("package not found in config\n")
        sys.exit(1)
    assert capsys.readouterr().err == ""


def test_other_exits_and_messages_stay(capsys: pytest.CaptureFixture[str]) -> None:
    flags = checked_flags(["--cfg", "job", "-p", "seed"], "")
    with pytest.raises(SystemExit, match="0"), package_found(flags):
        sys.exit(0)
    with package_found(flags):
        sys.stderr.write("a warning")
    assert capsys.readouterr().err == "a warning"
