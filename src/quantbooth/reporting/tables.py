"""One table, and every form it is written in: Markdown, HTML, LaTeX, CSV and on the terminal."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

import pandas as pd
from markupsafe import Markup
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from quantbooth.reporting.columns import NOTHING
from quantbooth.reporting.style import Style

__all__ = ["INCOMPLETE", "Cell", "Column", "Row", "Table", "activation_note", "as_text", "markdown"]

INCOMPLETE = "†"
SPECIAL = {
    "\\": r"\textbackslash{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--", "†": r"$^\dagger$"},
    **{"[": "{[}", "]": "{]}", "*": "{*}", "`": "{`}", "'": "{'}"},  # options of what stands before; quotes
    **{"×": r"$\times$", "<": "$<$", ">": "$>$", "|": "$|$"},
}
"""Characters with another meaning in plain LaTeX, or unknown to it."""

BAR = re.compile(r"(?<!\\)\|")
MARKUP = re.compile(r"[\\`*_|~$]|(?<=\])\(")
"""Signs with a meaning in Markdown inside a table, mathematics and links included."""
COMPUTED = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Cell:
    """A number as it is written, with its spread; `value` and `ends` are the same unrounded, for the CSV."""

    text: str = NOTHING
    spread: str = ""
    marked: bool = False
    value: object = None
    ends: tuple[object, object] | None = None

    @property
    def whole(self) -> str:
        """Number and spread in one line."""
        return f"{self.text} ±{self.spread}" if self.spread else self.text

    def numbers(self, key: str) -> Mapping[str, object]:
        """Return the CSV columns of the cell."""
        ends = () if self.ends is None else zip((f"{key}_low", f"{key}_high"), self.ends, strict=True)
        return {key: self.text if self.value is None else self.value, **dict(ends)}


@dataclass(frozen=True)
class Column:
    """A column; one without a title is in the CSV only."""

    key: str
    title: str = ""
    group: str = ""


@dataclass(frozen=True)
class Row:
    """A row: its label, cells by column key, the style of its method, and whether it is incomplete."""

    label: str
    cells: Mapping[str, Cell]
    style: Style | None = None
    incomplete: bool = False

    @property
    def name(self) -> str:
        """The label, with a dagger if the row is incomplete."""
        return f"{self.label} {INCOMPLETE}" if self.incomplete else self.label

    @property
    def heading(self) -> Markup:
        """The HTML cell with the row's label."""
        mark = dagger = ""
        if self.style is not None:
            colour = f"--l:{self.style.colour.light};--d:{self.style.colour.dark}"
            mark = f'<span class="mark" aria-hidden="true" style="{colour}">{self.style.glyph}</span>'
        if self.incomplete:
            dagger = f'<abbr title="incomplete">&nbsp;{INCOMPLETE}</abbr>'
        return Markup(f'<th scope="row">{mark}{escape(self.label)}{dagger}</th>')


@dataclass(frozen=True)
class Table:
    """Rows of numbers under titled columns; `first` is the title above the labels, `notes` are lines below."""

    first: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def shown(self) -> tuple[Column, ...]:
        """Columns with a title."""
        return tuple(column for column in self.columns if column.title)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the rows."""
        return tuple(row.label for row in self.rows)

    def __getitem__(self, label: str) -> Mapping[str, Cell]:
        return next(row.cells for row in self.rows if row.label == label)

    def cells(self, row: Row) -> list[Cell]:
        """Return the cells of a row under the titles."""
        return [row.cells.get(column.key, Cell()) for column in self.shown]

    def only(self, *groups: str) -> "Table":
        """Return the table with the columns of some groups."""
        return replace(self, columns=tuple(column for column in self.columns if column.group in groups))

    def to_markdown(self) -> str:
        """Return the lines of the table, marked cells in bold."""
        rows = [
            [as_text(r.name), *(f"**{as_text(c.whole)}**" if c.marked else as_text(c.whole) for c in self.cells(r))]
            for r in self.rows
        ]
        return markdown([self.first, *(as_text(column.title) for column in self.shown)], rows)

    def to_html(self, label: str, marked: str = "") -> Markup:
        """Return the table in a box that scrolls sideways; `marked` is what a marked cell means, for screen readers."""
        heads = "".join(
            f'<th scope="col">{escape(title)}</th>' for title in (self.first, *(c.title for c in self.shown))
        )
        lines = []
        for row in self.rows:
            quiet = ' class="untuned"' if row.style is not None and row.style.hollow else ""
            cells = "".join(_html_cell(cell, marked) for cell in self.cells(row))
            lines.append(f"<tr{quiet}>{row.heading}{cells}</tr>")
        body = "\n".join(lines)
        return Markup(
            f'<div class="box" role="region" aria-label="{escape(label)}" tabindex="0">\n<table class="numbers">\n'
            f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
        )

    def to_latex(self, caption: str = "") -> str:
        r"""Return a tabular for `\input`; needs the package booktabs, and says so in its first line."""
        notes = [caption, *self.notes] if caption else self.notes
        lines = [
            r"% needs \usepackage{booktabs}",
            rf"\begin{{tabular}}{{l{'r' * len(self.shown)}}}",
            r"\toprule",
            _latex_row([_latex(title) for title in (self.first, *(column.title for column in self.shown))]),
            r"\midrule",
            *(
                _latex_row([_latex(row.name), *(_bold(_latex(c.whole), c.marked) for c in self.cells(row))])
                for row in self.rows
            ),
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip\noindent\footnotesize {_latex(note)}" for note in notes),
        ]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """Return the numbers unrounded, a line for each row, the ends of intervals in columns of their own."""
        rows = [
            {self.first: _inert(row.label)}
            | {k: _inert(v) for c in self.columns for k, v in row.cells.get(c.key, Cell("")).numbers(c.key).items()}
            for row in self.rows
        ]
        return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")

    def show(self, console: Console | None = None) -> None:
        """Print the table by groups of columns, then the notes."""
        console = console or Console()
        for group in dict.fromkeys(column.group for column in self.shown):
            for part in self.only(group)._parts(console.width):
                console.print(part)
        for note in self.notes:
            console.print(Text(note, style="yellow"))

    def _parts(self, width: int) -> Iterator[RichTable]:
        """Yield the table for a terminal: where it is narrow, labels, headers and spreads wrap, then columns go below.

        No number is ever cut, even where a single column is wider than the terminal.
        """
        texts = [[c.title, *(self.cells(row)[k].whole for row in self.rows)] for k, c in enumerate(self.shown)]
        label = max((len(text) for text in (self.first, *(row.name for row in self.rows))), default=0)
        if label + sum(1 + max(map(len, column)) for column in texts) <= width:
            yield self._rich(range(len(texts)), label, [max(map(len, column)) for column in texts])
            return
        widths = [max(map(len, " ".join(column).split())) for column in texts]  # of the longest word
        label = min(label, max(width // 3, width - sum(widths) - len(widths)))
        part: list[int] = []
        for k, own in enumerate(widths):
            if part and label + sum(1 + widths[p] for p in part) + 1 + own > width:
                yield self._rich(part, label, widths)
                part = []
            part.append(k)
        yield self._rich(part, label, widths)

    def _rich(self, part: Sequence[int], label: int, widths: Sequence[int]) -> RichTable:
        made = RichTable(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        made.add_column(Text(self.first), width=label, overflow="fold")
        for k in part:
            made.add_column(Text(self.shown[k].title), justify="right", width=widths[k], overflow="fold")
        for row in self.rows:
            cells = self.cells(row)
            made.add_row(Text(row.name), *(Text(cells[k].whole, style="bold" if cells[k].marked else "") for k in part))
        return made


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of texts: the first column left-aligned, the others right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(BAR.sub(r"\\|", cell) for cell in cells) + " |" for cells in lines)


def as_text(name: str) -> str:
    """Return a name with what Markdown and HTML would read as markup escaped."""
    return MARKUP.sub(r"\\\g<0>", name).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _inert(value: object) -> object:
    """Return a value for the CSV; a text that a spreadsheet would compute begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(COMPUTED) else value


def activation_note(quants: Iterable[str]) -> str | None:
    """Return a sentence that names settings with simulated activations; None where the activations of all are float.

    Args:
        quants: names of settings, which have a8, a6, ... in them where activations have such bits.
    """
    named = list(dict.fromkeys(quant for quant in quants if re.fullmatch(r"\w*a\d+", quant.split(" ")[0])))
    if not named:
        return None
    return (
        f"{', '.join(named)} - activations: simulated integers, whole numbers held as floats, so neither speed nor "
        "memory of an integer product is shown; the codes of weights are packed."
    )


def _html_cell(cell: Cell, marked: str) -> str:
    spread = f'<span class="spread"> ±{escape(cell.spread)}</span>' if cell.spread else ""
    heard = f'<span class="hear"> ({escape(marked)})</span>' if cell.marked else ""
    kind = ' class="best"' if cell.marked else ""
    return f'<td{kind}><span class="value">{escape(cell.text)}</span>{spread}{heard}</td>'


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _bold(text: str, marked: bool) -> str:
    return rf"\textbf{{{text}}}" if marked else text


def _latex(text: str) -> str:
    return "".join(SPECIAL.get(sign, sign) for sign in text)
