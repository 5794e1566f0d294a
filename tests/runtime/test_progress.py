"""The progress bar says what is done in the command's own words, in one line of 80 columns."""

import io

import pytest
from lightning.pytorch import Trainer
from rich.console import Console
from rich.progress import Progress

from quantbooth.runtime.lightning import Bar, shortened


def test_every_loop_shows_the_sentence_it_was_given() -> None:
    bar = Bar("tuning toy_mug")
    shown = {bar.predict_description, bar.test_description, bar._get_train_description(0)}
    assert shown == {"tuning toy_mug"}


@pytest.mark.parametrize(("width", "shown"), [(10, "0123456789"), (9, "0123…6789"), (4, "01…9"), (1, "…")])
def test_a_long_label_loses_its_middle(width: int, shown: str) -> None:
    assert shortened("0123456789", width) == shown


def test_a_long_label_a_count_and_the_time_left_fit_80_columns_in_one_line() -> None:
    bar, console = (
        Bar("scoring toy_backpack-s2-apart-scales_in_out-w4-seed0-step800"),
        Console(file=io.StringIO(), width=80),
    )
    progress = Progress(*bar.configure_columns(Trainer(logger=False, enable_progress_bar=False)), console=console)
    progress.add_task(bar.test_description, total=123456, completed=1234)
    console.print(progress)
    assert isinstance(console.file, io.StringIO)
    (line,) = console.file.getvalue().splitlines()
    assert "1234/123456" in line and line.rstrip()[-1] in "-0123456789:"
    assert len(line.rstrip()) <= 80 - len(" loss: 0.475")
