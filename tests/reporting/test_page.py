"""The page: complete in itself, readable without sight, pictures or script, and holding every number of the table."""

import dataclasses
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from quantbooth.reporting.page import About, write_report
from quantbooth.reporting.results import Result
from quantbooth.reporting.score_table import score_table
from quantbooth.reporting.study import Study
from quantbooth.runtime.errors import UserError

Make = Callable[..., Result]
ABOUT = About(["quantbooth experiment=demo"], ["Few <steps> only."], made=[("versions", "quantbooth 0.1.0")])


BESIDE = {
    *(
        "table.md",
        "table.csv",
        "table.tex",
        "rows.csv",
        "differences.md",
        "areas.md",
        "overfitting.md",
        "stopping.md",
        "snapshots.csv",
    ),
    *("tradeoff.svg", "tradeoff_oracle.svg"),
}
VOID = {"meta", "link", "img", "input", "br"}


class Reader(HTMLParser):
    """Elements with their attributes, the text of the page, and elements left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.open: list[str] = []
        self.misnested: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.misnested.append(tag)

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def report(kept_four: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report's folder."""
    folder = tmp_path_factory.mktemp("page") / "report"
    return write_report(kept_four, folder, ABOUT)[0].parent


@pytest.fixture(scope="module")
def page(report: Path) -> str:
    return (report / "index.html").read_text(encoding="utf-8")


def test_nothing_is_fetched_from_anywhere(page: str) -> None:
    assert not re.search(r"(?i)(?:https?:|//[a-z]+\.)", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    reader = Reader(page)
    addresses = [e.get("src") or e.get("href") for _, e in reader.elements if "src" in e or "href" in e]
    assert addresses
    beside = {"grid.png", *BESIDE}
    assert all(a.startswith(("data:", "#")) or a in beside for a in addresses if a)


def test_the_page_is_well_nested_and_every_image_has_words(page: str) -> None:
    reader = Reader(page)
    assert reader.misnested == [] and reader.open == []
    images = reader.all("img")
    assert len(images) == 3 + 5 * 5 + 1  # photos, five methods by five prompts, the enlarged one
    assert all(image.get("alt") for image in images)
    assert all(svg.get("role") == "img" and svg.get("aria-labelledby") for svg in reader.all("svg"))
    identities = [e["id"] for _, e in reader.elements if "id" in e]
    assert len(identities) == len(set(identities))


def test_headings_descend_one_level_at_a_time(page: str) -> None:
    levels = [int(tag[1]) for tag, _ in Reader(page).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_number_of_the_table_is_on_the_page(page: str, kept_four: Study) -> None:
    cells = {" ".join(cell.replace("(best)", "").split()) for cell in Reader(page).cells}
    table = score_table(kept_four)
    for row in table.rows:
        assert {" ".join(cell.whole.split()) for cell in table.cells(row)} <= cells
    assert page.count("(best)") == sum(cell.marked for row in table.rows for cell in row.cells.values())


def test_commands_notes_and_headline_are_there_and_escaped(page: str) -> None:
    assert "<code>quantbooth experiment=demo</code>" in page
    assert "Few &lt;steps&gt; only." in page
    assert "<dd>quantbooth 0.1.0</dd>" in page
    assert "pre-trained by this project" in page


def test_files_lie_beside_the_page(report: Path, kept_four: Study) -> None:
    names = {file.name for file in report.iterdir()}
    assert names == {"index.html", "grid.png", *BESIDE}
    assert all('xmlns="' in file.read_text() for file in report.glob("*.svg"))  # or no viewer takes it for a picture
    assert len(pd.read_csv(report / "rows.csv")) == sum(len(result.rows) for result in kept_four.results)


def test_the_same_results_give_the_same_page(page: str, kept_four: Study, tmp_path: Path) -> None:
    again = write_report(kept_four, tmp_path / "again", ABOUT)[0]
    assert again.read_text(encoding="utf-8") == page


def test_an_unfinished_sweep_says_what_is_missing(make: Make, tmp_path: Path) -> None:
    results = [make(m, s) for m in ("baseline", "s1") for s in ("mug", "duck")] + [make("s2", "mug")]
    text = write_report(Study(tuple(results)), tmp_path / "report", About())[0].read_text(encoding="utf-8")
    assert "This report is incomplete" in text and "<li>s2 lacks duck</li>" in text
    assert text.count("not there yet") == 5
    assert re.search(r's2<abbr title="incomplete">&nbsp;†</abbr>', text)
    assert 'id="reproduce"' not in text


def test_a_report_before_any_method_is_complete_has_no_plot(make: Make, tmp_path: Path) -> None:
    study = Study((make("baseline", "mug"), make("s1", "duck")))
    file = write_report(study, tmp_path / "report", About())[0]
    assert not (file.parent / "tradeoff.svg").exists()
    assert "<svg" not in file.read_text(encoding="utf-8")


def test_refusals_leave_no_folder_behind(make: Make, tmp_path: Path) -> None:
    broken = make("s2")
    (broken.images / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match="cannot read the picture"):
        write_report(Study((broken,)), tmp_path / "report", About())
    assert not (tmp_path / "report").exists()


def test_losses_are_drawn_where_they_were_logged(make: Make, tmp_path: Path) -> None:
    bare = write_report(Study((make("s1"),)), tmp_path / "bare", About())
    logged = make("s1", loss=((9, 0.5), (19, 0.4), (29, 0.25)))
    drawn = write_report(Study((logged,)), tmp_path / "drawn", About())
    assert "loss.svg" not in [file.name for file in bare] and "metrics.csv" in bare[0].read_text(encoding="utf-8")
    text = (tmp_path / "drawn" / "loss.svg").read_text(encoding="utf-8")
    assert "loss.svg" in [file.name for file in drawn] and "0.250 at step 29" in text


def test_every_prompt_is_on_the_page_with_the_class_word(make: Make, tmp_path: Path) -> None:
    result = make("s1")
    prompts = [f"a {{}} in place {k}" for k in range(40)]
    rows = pd.concat([result.rows.iloc[:1]] * 40, ignore_index=True).assign(prompt=prompts)
    texts = {prompt: prompt.replace("{}", "mug") for prompt in prompts}
    study = Study((dataclasses.replace(result, rows=rows, texts=texts),))
    page = write_report(study, tmp_path / "report", About())[0].read_text(encoding="utf-8")
    assert all(f'data-prompt="a mug in place {k}"' in page for k in range(40)) and "{}" not in page
