"""Documents: figures in them are the report's own, and what they link to exists."""

import re
from pathlib import Path

import pytest


def between(text: str, start: str, end: str) -> str:
    return text.split(start, 1)[1].split(end, 1)[0].split("-->", 1)[1].strip()


def test_the_readme_shows_the_demo_table_to_the_letter(repository: Path) -> None:
    shown = between((repository / "README.md").read_text(), "<!-- made by `make demo`", "<!-- end -->")
    assert shown == (repository / "experiments" / "demo" / "table.md").read_text().strip()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "BEWARE.md", "experiments/README.md"])
def test_links_to_files_lead_somewhere(repository: Path, name: str) -> None:
    file = repository / name
    links = re.findall(r"\]\(([^)#]+)", file.read_text())
    missing = [link for link in links if not link.startswith("http") and not (file.parent / link).exists()]
    assert not missing
