"""The LaTeX table: as many cells in every row, nothing that LaTeX reads otherwise, the marks of the other tables."""

import re
from collections.abc import Callable

from quantbooth.reporting.layout import Cell, Written, footnotes, whole_sheet
from quantbooth.reporting.results import Result
from quantbooth.reporting.tables import latex, table

Make = Callable[..., Result]


def test_a_small_table_to_the_letter() -> None:
    sheet = Written(("found (%)", "a_b"), ("s1 †", "s2"), ((Cell("1", "2", best=True), Cell("–")), (Cell("−3"),) * 2))
    assert latex(sheet, "method", ["50 % & more"]).splitlines() == [
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
    frame = table([*results, make("my_own", "mug")])
    text = latex(whole_sheet(frame), "method", footnotes(frame))
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    (columns,) = re.findall(r"begin\{tabular\}\{l(r+)\}", text)
    assert len(body) == 4 and all(len(re.split(r"(?<!\\)&", line)) == len(columns) + 1 for line in body)
    assert text.isascii() and r"$^\dagger$ my\_own lacks duck" in text
    assert text.count(r"\textbf") == frame["best"].str.split().str.len().sum()
