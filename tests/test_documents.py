"""Documents: figures in them are the report's own, and what they link to exists."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]

DOCUMENTS = [Path("README.md"), *sorted(Path("experiments") / file.name for file in (TOP / "experiments").glob("*.md"))]
SHOWN = re.compile(r"<!-- shows (\S+?)[ ,].*?-->\n(.*?)\n<!-- end -->", re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_a_table_is_shown_to_the_letter(document: Path) -> None:
    text = (TOP / document).read_text()
    shown = SHOWN.findall(text)
    assert len(shown) == text.count("<!-- shows ") == text.count("<!-- end -->")
    for file, table in shown:
        assert table == (TOP / file).read_text().strip(), f"run experiments/show.py: {document} is behind {file}"


def test_the_readme_shows_a_table() -> None:
    assert "experiments/first_answer/table.md" in [file for file, _ in SHOWN.findall((TOP / "README.md").read_text())]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "BEWARE.md", *map(str, DOCUMENTS)])
def test_links_to_files_lead_somewhere(repository: Path, name: str) -> None:
    file = repository / name
    links = re.findall(r"\]\(([^)#]+)", file.read_text())
    missing = [link for link in links if not link.startswith("http") and not (file.parent / link).exists()]
    assert not missing
