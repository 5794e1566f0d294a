"""Tables: what is undefined is nan in the columns that allow it, and only there; texts stay texts."""

import math
from pathlib import Path

import pytest

from quantbooth.evaluation.rows import read_csv
from quantbooth.runtime.errors import UserError


def test_an_empty_number_is_undefined_and_the_same_word_in_a_text_is_a_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("word,known,score_a\nnan,1.5,\nNA,2,nan\n,3,0.5\n")
    table = read_csv(file, ["word"], ["known"], "score_")
    assert table["word"].tolist() == ["nan", "NA", ""]
    assert table["known"].tolist() == [1.5, 2, 3]
    first, second, last = table["score_a"]
    assert math.isnan(first) and math.isnan(second) and last == 0.5


@pytest.mark.parametrize("value", ["", "nan", "inf"])
def test_a_number_that_must_be_there_is_asked_for_by_column(tmp_path: Path, value: str) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(f"word,known\na,1\nb,{value}\n")
    with pytest.raises(UserError, match=r"rows\.csv: known must be finite"):
        read_csv(file, ["word"], ["known"])
