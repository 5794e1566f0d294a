"""Names are data: markup in a method, subject, prompt or run comes out as text in every form of a report."""

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from quantbooth.reporting.page import About, write_report
from quantbooth.reporting.results import Result
from quantbooth.reporting.score_table import score_table
from quantbooth.reporting.study import Study
from quantbooth.reporting.tables import as_text
from quantbooth.runtime.errors import UserError

Make = Callable[..., Result]
NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    r"$\frac{",
    r"$x^$ \input{/etc/passwd}",
    r"\write18{ls}",
    "[0,200] \\\\",
    "*bold* _it_ `code`",
    "[x](javascript:alert)",
    "a|b",
    "=cmd|'/c calc'!A0",
    "@SUM(1)",
    "[/red] [link=x]",
    'font-family: x; url(#a) id="b" href="#c',
    "--> <!-- &amp; &#60;",
    "_hidden",
    "{{ 7 * 7 }} {% x %}",
    "日本 ü ∀",
]


class Tags(HTMLParser):
    """The tags and attributes that a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(name for name, _ in attrs)}


def tags(text: str) -> set[str]:
    parser = Tags()
    parser.feed(text)
    return parser.found


def study(make: Make, name: str) -> Study:
    results = [
        make(method, subject, step=step, run=f"{name}-{method}-{subject}-{step}", base=name, costs=costs, loss=loss)
        for method, step, costs, loss in (
            ("base", 0, {}, ()),
            (f"{name}a", 400, {"trainable": 10}, ((1, 0.5), (2, 0.25))),
            (f"{name}b", 400, {"trainable": 5000}, ()),
            (f"{name}c", 400, {"trainable": 700}, ()),
        )
        for subject in (f"{name}", f"{name} too")
    ]
    return Study(tuple(results))


def reported(make: Make, name: str, folder: Path) -> set[str]:
    """Write the report of a study of this name; return what its page is made of."""
    write_report(study(make, name.replace("/", "∕")), folder, About([name], [name], [], [("made", name)]))
    return tags((folder / "index.html").read_text())


@pytest.fixture(scope="module")
def plain(module_make: Make, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    return reported(module_make, "plain", tmp_path_factory.mktemp("plain") / "report")


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.chain
def test_a_nasty_name_is_text_in_every_output(make: Make, tmp_path: Path, plain: set[str], name: str) -> None:
    assert reported(make, name, tmp_path / "nasty") == plain
    figures = list((tmp_path / "nasty").glob("*.svg"))
    assert {file.name for file in figures} >= {"tradeoff.svg", "loss.svg", "frontier.svg"}
    for file in figures:
        ElementTree.fromstring(file.read_text())


@pytest.mark.parametrize("name", NASTY)
def test_a_nasty_name_is_text_in_every_table(make: Make, name: str) -> None:
    name = name.replace("/", "∕")  # the made-up results are folders of this name
    table = score_table(study(make, name))
    label = table.rows[1].label
    assert name in label
    lines = table.to_markdown().splitlines()
    bars = [line.replace(r"\|", "").count("|") for line in lines]
    assert len(set(bars)) == 1 and as_text(label) in lines[3]
    assert "<" not in "".join(lines) and "](" not in "".join(lines)
    first = [row[0] for row in csv.reader(io.StringIO(table.to_csv()))]
    assert first[2].removeprefix("'") == label and not first[2].startswith(("=", "+", "-", "@"))
    body = table.to_latex().split("midrule")[1].split(r"\bottomrule")[0]
    assert not any(bad in body for bad in (r"\input", r"\write", r"\frac", "\n[")) and body.count("\\\\\n") == 4
    stream = io.StringIO()
    table.show(Console(file=stream, width=300))
    assert label in stream.getvalue()


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a\0b", "a\u202eb"])
def test_a_name_that_no_line_can_show_is_refused(make: Make, name: str) -> None:
    for key in ("method", "subject", "base", "run", "scorer"):
        with pytest.raises(UserError, match=f"{key} must be printable"):
            replace(make(), **{key: name})  # type: ignore[arg-type]
