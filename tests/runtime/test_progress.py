"""Progress: every bar in one line of a terminal, jobs of a sweep by number, nothing but lines where there is none."""

import io
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from rich.console import Console

from quantbooth.runtime.progress import LoopBar, label, progress, say_found, shortened

LONG = "drawing toy_mug-s2-qlora-w4-mse-seed0-step200-with-style-and-another-of-a-long-name-924f22e5976d"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Puts a terminal of 80 columns in the place of stderr (pytest puts its own there between fixtures and test)."""
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)

    def screen() -> Terminal:
        monkeypatch.setattr(sys, "stderr", made := Terminal())
        return made

    return screen


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is the third of six jobs."""
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": {"seed": "0,1"}}
    found = OmegaConf.create({"mode": RunMode.MULTIRUN, "job": {"num": 2}, "sweeper": sweeper})
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: found)
    monkeypatch.setattr(sys, "argv", ["quantbooth", "-m", "strategy=baseline,s1,s2", "tuner.steps=4"])


def test_a_label_of_any_length_leaves_one_line_of_80_columns(terminal: Callable[[], Terminal]) -> None:
    screen = terminal()
    for what, figures in itertools.product(("a", LONG), ("", "loss 0.123")):
        with LoopBar(what, 100000) as shown:
            shown.bar.update(shown.task, completed=12345)
            shown.show(figures)
            console = Console(file=(page := io.StringIO()), width=80)
            console.print(shown.bar.get_renderable())
        (line,) = page.getvalue().splitlines()
        assert len(line) <= 80
        assert line.startswith(what[:12])
        assert all(part in line for part in ("12345/100000", "-:--:-- left", figures))
    assert "\x1b" in screen.getvalue()


def test_a_label_keeps_both_ends() -> None:
    assert shortened("short", 5) == "short"
    assert shortened("0123456789", 5) == "01…89"
    assert [len(shortened(LONG, width)) for width in (0, 1, 2, 30)] == [0, 1, 2, 30]


def test_the_loop_yields_everything_and_leaves_one_line_where_no_terminal_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(progress((k for k in range(3)), "counting", total=3)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "counting: 3/3 in 0:00:01\n")
    assert list(progress((k for k in range(2)), "counting")) == [0, 1]
    assert capsys.readouterr() == ("", "counting: 2 in 0:00:01\n")
    with pytest.raises(ZeroDivisionError):
        for k in progress([1, 0], "dividing"):
            1 / k
    assert capsys.readouterr() == ("", "dividing: 1/2 in 0:00:01\n")


def test_a_terminal_shows_how_many_are_done_and_is_left_as_it_was(terminal: Callable[[], Terminal]) -> None:
    screen = terminal()
    for _ in progress(range(3), LONG):
        pass
    assert re.search(r"3/3", screen.getvalue())
    assert screen.getvalue().endswith("\x1b[2K")


@pytest.mark.usefixtures("sweep")
def test_a_bar_within_a_sweep_names_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    assert label("tuning") == "job 3 of 6: tuning"
    monkeypatch.setattr(sys, "argv", ["worker", "--pipe=3"])
    assert label("tuning") == "job 3: tuning"
    monkeypatch.setattr(sys, "argv", ["quantbooth", "-m", "strategy=glob(*)"])
    assert label("tuning") == "job 3: tuning"


def test_a_bar_without_a_sweep_names_the_work_alone() -> None:
    assert label("tuning") == "tuning"


def test_what_is_found_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "scale_sets" / "toy_mug-s2-w4-seed0-924f22e5976d"
    assert say_found(folder) == folder == say_found(folder)
    assert say_found(None) is None
    assert capsys.readouterr() == ("", "found: scale sets toy_mug-s2-w4-seed0-924f22e5976d\n")
