"""quantbooth-list: the table fits the terminal, and what it is asked for is read or refused."""

import sys
from pathlib import Path

import pytest

from quantbooth.commands import listing
from quantbooth.commands.listing import Row, fitting

ROWS = [
    Row(
        "8597",
        "scale_sets",
        f"toy_subject_{n}",
        "baseline-scales_in_out",
        "toy",
        "w4",
        "400",
        "0",
        "2026-11-27 18:39",
        "435 kB",
    )
    for n in range(3)
]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_a_table_fits(width: int) -> None:
    lines = fitting(ROWS, width)
    assert max(map(len, lines)) <= width
    assert all(line.startswith("8597  ") for line in lines[-3:])
    assert ("all: " in lines[0]) == (width < 120)
    assert all(word in "\n".join(lines) for word in ("2026-11-27", "435 kB", "scale_sets", "400"))


def test_what_is_alike_is_said_once_and_long_cells_are_shortened() -> None:
    first, head, *_ = fitting(ROWS, 80)
    assert first == "all: kind scale_sets, method baseline-scales_in_out"
    assert head.split() == ["name", "subject", "base", "quant", "steps", "seed", "date", "size"]
    other = Row(*("ffff", "adapters", "x" * 40, "lora", "sd15", "fp", "2", "1", "2026-11-27 18:40", "1 B"))
    assert [len(line) <= 80 and "…" in line for line in fitting([ROWS[0], other], 80)[1:]] == [True, True]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["kind=cake"], "kind must be of quantized_base, scale_sets, "),
        (["seed=1"], "seed=1 is no option of quantbooth-list; write words, kind=KIND or paths.store=DIR"),
        (["--all"], "unknown flag '--all'; write words"),
        (["paths.store=nowhere"], "no store at nowhere; name it by paths.store=DIR"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["quantbooth-list", *words])
    with pytest.raises(SystemExit, match="2"):
        listing.main()
    said = capsys.readouterr().err
    assert said.startswith(f"quantbooth: {told}") and said.count("\n") == 1


def test_damage_is_named_and_the_rest_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder := tmp_path / "scores" / "mug-859710105c30").mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    assert listing.rows_of([folder]) == {}
    assert capsys.readouterr().err.startswith(f"quantbooth: not listed: {folder} is damaged")
