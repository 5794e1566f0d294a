"""The table for a paper: LaTeX with booktabs, marked cells in bold, footnotes below."""

from collections.abc import Sequence

from quantbooth.reporting.layout import Cell, Written

__all__ = ["latex"]

SPECIAL = {
    "\\": r"\textbackslash{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "†": r"$^\dagger$",
    "×": r"$\times$",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
}
"""What plain LaTeX reads otherwise, or does not know without further packages."""


def latex(sheet: Written, first: str, notes: Sequence[str] = ()) -> str:
    r"""The sheet as a tabular for `\input`; needs the package booktabs, and says so in its first line.

    `first` is the title above the row labels; `notes` are lines below the table.
    """
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * len(sheet.titles)}}}",
        r"\toprule",
        _row([_escaped(title) for title in (first, *sheet.titles)]),
        r"\midrule",
        *(_row([_escaped(label), *map(_cell, cells)]) for label, cells in sheet.rows()),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    lines += [rf"\par\smallskip\noindent\footnotesize {_escaped(note)}" for note in notes]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    return rf"\textbf{{{_escaped(cell.text)}}}" if cell.best else _escaped(cell.text)


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(sign, sign) for sign in text)
