"""The LaTeX table: as many cells in every row, nothing that LaTeX reads otherwise, the marks of the other tables."""

import re
from collections.abc import Callable

from quantbooth.reporting.results import Result
from quantbooth.reporting.score_table import score_table
from quantbooth.reporting.study import Study
from quantbooth.reporting.tables import Cell, Column, Row, Table

Make = Callable[..., Result]


def test_a_small_table_to_the_letter() -> None:
    columns = (Column("found", "found (%)"), Column("hidden"), Column("a", "a_b"))
    one = Row("s1", {"found": Cell("1", "2", marked=True), "a": Cell()}, incomplete=True)
    table = Table("method", columns, (one, Row("s2", dict.fromkeys(("found", "a"), Cell("−3")))), ("50 % & more",))
    assert table.to_latex().splitlines() == [
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"method & found (\%) & a\_b \\",
        r"\midrule",
        r"s1 $^\dagger$ & \textbf{1 $\pm$2} & -- \\",
        r"s2 & $-$3 & $-$3 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip\noindent\footnotesize 50 \% \& more",
    ]


def test_every_row_of_a_report_has_as_many_cells_and_plain_signs(make: Make) -> None:
    results = [make(method, subject) for method in ("baseline", "s1") for subject in ("mug", "duck")]
    table = score_table(Study((*results, make("my_own", "mug"))))
    text = table.to_latex()
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    (columns,) = re.findall(r"begin\{tabular\}\{l(r+)\}", text)
    assert len(body) == 4 and all(len(re.split(r"(?<!\\)&", line)) == len(columns) + 1 for line in body)
    assert text.isascii() and r"$^\dagger$ my\_own lacks duck" in text
    assert text.count(r"\textbf") == sum(cell.marked for row in table.rows for cell in row.cells.values())
