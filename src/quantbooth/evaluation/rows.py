"""Tables of artifacts: their columns by name and kind, finite numbers, a bounded number of rows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pyarrow import ArrowException

from quantbooth.runtime.errors import UserError
from quantbooth.store.files import require_name, require_plain

__all__ = ["read_csv", "read_parquet"]

MOST = 10**7
"""Most rows of a table: a few kilobytes of Parquet can say that there are billions."""
FILE = "file"
"""The column with names of pictures, which must stay in their folder."""


def read_parquet(
    file: Path, texts: Sequence[str], numbers: Sequence[str], undefined: Sequence[str] = ()
) -> pd.DataFrame:
    """Return a table with exactly these columns; those of `undefined` may hold nan.

    Raises:
        UserError: naming the file and the column that does not fit.
    """
    require_plain(file, "the table")
    try:
        with pq.ParquetFile(file) as opened:
            _require_columns(list(opened.schema_arrow.names), [*texts, *numbers], file)
            _require_few(opened.metadata.num_rows, file)
            table = opened.read().to_pandas(ignore_metadata=True)
    except UserError:
        raise
    except (ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise _unreadable(file, error) from error
    return _checked(table, texts, numbers, undefined, file)


def read_csv(file: Path, texts: Sequence[str], numbers: Sequence[str], undefined: str | None = None) -> pd.DataFrame:
    """Return a table with exactly these columns, and numbers, nan too, whose names begin with `undefined`.

    Raises:
        UserError: naming the file and the column that does not fit.
    """
    require_plain(file, "the table")
    try:
        columns = list(pd.read_csv(file, nrows=0))
        others = [name for name in columns if undefined is not None and name.startswith(undefined)]
        _require_columns([name for name in columns if name not in others], [*texts, *numbers], file)
        missing = {name: ["", "nan"] for name in (*numbers, *others)}
        kinds = dict.fromkeys(texts, str)
        table = pd.read_csv(file, dtype=kinds, keep_default_na=False, na_values=missing, nrows=MOST + 1)
    except UserError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(file, error) from error
    _require_few(len(table), file)
    return _checked(table, texts, [*numbers, *others], others, file)


def _unreadable(file: Path, error: BaseException) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"{file} cannot be read: {reason}; remove its folder and make it again")


def _require_columns(found: Sequence[str], expected: Sequence[str], file: Path) -> None:
    for name in expected:
        if name not in found:
            raise UserError(f"{file} must have the column {name}, found {', '.join(map(str, found))}")
    for name in found:
        if name not in expected or found.count(name) > 1:
            raise UserError(f"{file} must have the columns {', '.join(expected)}, each once, found {name!r}")


def _require_few(rows: int, file: Path) -> None:
    if rows > MOST:
        raise UserError(f"{file} must have at most {MOST:,} rows, found {rows:,}")


def _checked(
    table: pd.DataFrame, texts: Sequence[str], numbers: Sequence[str], undefined: Sequence[str], file: Path
) -> pd.DataFrame:
    for name in texts:
        strange = [value for value in table[name] if not isinstance(value, str)]
        if strange:
            raise UserError(f"{file}: {name} must be texts, found {strange[0]!r}")
    for name in numbers:
        if not pd.api.types.is_numeric_dtype(table[name]) and not table[name].empty:
            raise UserError(f"{file}: {name} must be numbers, found {table[name].iloc[0]!r}")
        values = table[name].to_numpy(dtype=float)
        wrong = np.isinf(values) if name in undefined else ~np.isfinite(values)
        if wrong.any():
            raise UserError(f"{file}: {name} must be finite, found {values[wrong][0]} in row {int(wrong.argmax())}")
    if FILE in texts:
        for name in table[FILE].unique():
            require_name(name, f"{file}: {FILE}")
    return table
