"""The numbers of a degradation study: a row per setting, means with 95 % intervals, and ratios of calibrations."""

import math
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float
from rich.progress import track

from quantbooth.degradation.files import RIGHT, DegradationResult
from quantbooth.degradation.study import DegradationStudy, left_float
from quantbooth.evaluation.scores import psnr
from quantbooth.reporting.statistics import Interval, mean, relative_increase, share
from quantbooth.reporting.tables import markdown

__all__ = ["TRUE_PICTURES", "attributes", "numbers", "ratio_table"]

TRUE_PICTURES = "true pictures"
SEED = 0
Row = dict[str, object]


def numbers(study: DegradationStudy) -> pd.DataFrame:
    """Return a table of true pictures where known, float, and the settings, indexed by label.

    Each number has columns `_low` and `_high`. Per zone: `<zone>_error` and `<zone>_float_error`, mean squared errors
    of this denoiser's and the float prediction; `<zone>_added`, their difference; `<zone>_relative`, the difference
    divided by the float error; `<zone>_deviation`, the mean squared difference of both predictions. For pictures:
    `ssim`, `mse` and `psnr` against float's from the same noise, `clip_t`, `clip_t_change` against float's,
    `right_<attribute>`.
    """
    shown = track((study.reference, *study.settings), "intervals", transient=True)
    rows = [_setting(study, result) for result in shown]
    if study.reference.truth is not None:
        rows.insert(0, {"label": TRUE_PICTURES} | _judged(study.reference.truth))
    return pd.DataFrame(rows).set_index("label")


def attributes(table: pd.DataFrame) -> list[str]:
    """Return the attributes that the oracle scored."""
    found = (name for name in table if name.startswith(RIGHT) and not name.endswith(("_low", "_high")))
    return [name.removeprefix(RIGHT) for name in found]


def _setting(study: DegradationStudy, result: DegradationResult) -> Row:
    record = result.record
    about: Row = {
        "label": study.label(result),
        **{key: getattr(record, key) for key in ("quant", "bits", "calibration")},
        "left_float": left_float(result),
        **{key: getattr(record, key) for key in ("layers", "file_bytes")},
        "calibration_seconds": math.nan if record.seconds is None else record.seconds,
        "calibration_peak_memory_bytes": math.nan if record.peak_memory_bytes is None else record.peak_memory_bytes,
        "run": result.run,
    }
    for zone in record.zones:
        about |= _errors(zone, result.predictions[result.predictions["zone"] == zone])
    return about | _compared(result.pictures, study.reference.pictures) | _judged(result.pictures)


def _errors(zone: str, rows: pd.DataFrame) -> Row:
    found = {f"{zone}_{name}": _mean(rows[name]) for name in ("float_error", "error", "deviation")}
    found[f"{zone}_added"] = _mean(rows["error"] - rows["float_error"])
    found[f"{zone}_relative"] = relative_increase(rows["error"].to_numpy(), rows["float_error"].to_numpy(), _rng())
    return _named(found)


def _compared(pictures: pd.DataFrame, reference: pd.DataFrame) -> Row:
    if pictures["file"].tolist() != reference["file"].tolist():
        raise ValueError("pictures must be of the same questions as float's")
    spreads = {name: _mean(pictures[name]) for name in ("ssim", "mse")}
    spreads["clip_t_change"] = _mean(pictures["clip_t"] - reference["clip_t"])
    mse = spreads["mse"]
    return _named(spreads) | {"psnr": psnr(mse.mean), "psnr_low": psnr(mse.high), "psnr_high": psnr(mse.low)}


def _judged(pictures: pd.DataFrame) -> Row:
    rights = [column for column in pictures if column.startswith(RIGHT)]
    shares = {name: share(pictures[name].dropna().tolist()) for name in rights}
    return {"pictures": len(pictures)} | _named({"clip_t": _mean(pictures["clip_t"])} | shares)


def _mean(values: pd.Series) -> Interval:
    return mean(values.tolist(), _rng())


def _named(spreads: dict[str, Interval]) -> Row:
    ends = (("", "mean"), ("_low", "low"), ("_high", "high"))
    return {key + end: getattr(spread, part) for key, spread in spreads.items() for end, part in ends}


def _rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


def ratio_table(study: DegradationStudy) -> str | None:
    """Return the ratio of two deviations from float, for each pair of settings that differ in calibration only.

    On the same triples, with the 95 % interval over triples. None without such a pair.
    """
    zones = list(study.reference.record.zones)
    rows = []
    for other, one in combinations(study.settings, 2):
        same = (one.record.quant, one.record.left_float) == (other.record.quant, other.record.left_float)
        if same and study.family(one) != study.family(other):
            rows.append([f"{study.label(one)} / {study.family(other)}", *(_ratio(one, other, zone) for zone in zones)])
    return markdown(["deviation, ratio", *zones], rows) if rows else None


def _ratio(one: DegradationResult, other: DegradationResult, zone: str) -> str:
    found = relative_increase(_deviations(one, zone), _deviations(other, zone), _rng())
    return f"{1 + found.mean:.2f} [{1 + found.low:.2f}, {1 + found.high:.2f}]"


def _deviations(result: DegradationResult, zone: str) -> Float[np.ndarray, " n"]:
    rows = result.predictions
    return rows.loc[rows["zone"] == zone, "deviation"].to_numpy()
