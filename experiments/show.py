"""Puts generated tables into the documents that show them: python experiments/show.py

A document says where a table goes, and this fills what lies between:

    <!-- shows experiments/demo/table.md -->
    <!-- end -->
"""

import re
from pathlib import Path

__all__ = ["BLOCK", "ROOMS", "filled"]

ROOMS = ("experiments", "docs/how-to")
"""Folders whose documents show tables."""

BLOCK = re.compile(r"(<!-- shows (\S+?)[ ,].*?-->\n)(.*?)(<!-- end -->)", re.DOTALL)


def filled(text: str, top: Path) -> str:
    """The document with every block as its file is now; paths are relative to `top`."""
    return BLOCK.sub(lambda found: f"{found[1]}{(top / found[2]).read_text().strip()}\n{found[4]}", text)


def main() -> None:
    """Fill README.md, every document of experiments and every how-to page."""
    top = Path(__file__).parents[1]
    for document in (top / "README.md", *(file for room in ROOMS for file in sorted((top / room).glob("*.md")))):
        document.write_text(filled(document.read_text(), top))


if __name__ == "__main__":
    main()
