"""The document of a degradation study: two tables, plots and a same-noise grid over all settings of a sweep."""

import io
import math
import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import pandas as pd

from quantbooth.degradation.files import PICTURES, RIGHT, TRUTH, DegradationResult
from quantbooth.degradation.plots import curve_plot, error_plot, swept
from quantbooth.degradation.study import DegradationStudy
from quantbooth.degradation.tables import TRUE_PICTURES, attributes, numbers, ratio_table
from quantbooth.reporting.columns import NOTHING
from quantbooth.reporting.images import contact_sheet
from quantbooth.reporting.tables import activation_note, markdown
from quantbooth.store.files import write_whole

__all__ = ["same_noise_grid", "write_document"]

CELL = 64
LABEL_WIDTH = 170
BYTES = 300_000
TABLE, PLOT, CURVE, GRID = "table.csv", "errors.svg", "curve.svg", "grid.png"
MB, GB = 1e6, 1e9
Write = Callable[[pd.Series], str]


def same_noise_grid(study: DegradationStudy, shown: int) -> bytes:
    """Return a PNG of the first `shown` questions, or of as many (at least one) as fit into 300 kB.

    Rows are prompts; columns are the true pictures where known, the float base and each setting, all from the same
    noise.
    """
    folders = {study.label(result): result.folder / PICTURES for result in (study.reference, *study.settings)}
    if study.reference.truth is not None:
        folders = {"true": study.reference.folder / TRUTH} | folders
    rows = {label: [folder / file for folder in folders.values()] for label, file in _labelled(study, shown).items()}

    @cache
    def made(count: int) -> bytes:
        return _png(dict(list(rows.items())[:count]), list(folders))

    fitting = bisect_right(range(1, len(rows) + 1), BYTES, key=lambda count: len(made(count)))
    return made(max(fitting, 1))


def _labelled(study: DegradationStudy, shown: int) -> dict[str, str]:
    """Return files of the first questions by prompt; a repeated prompt has its noise seed in the label."""
    asked = study.reference.pictures[:shown]
    again = asked["text"].duplicated(keep=False)
    labels = asked["text"].where(~again, asked["text"] + ", seed " + asked["noise_seed"].astype(str))
    return dict(zip(labels, asked["file"], strict=True))


def _png(rows: Mapping[str, Sequence[Path]], columns: Sequence[str]) -> bytes:
    buffer = io.BytesIO()
    contact_sheet(rows, columns, CELL, label_width=LABEL_WIDTH).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write_document(
    found: Sequence[DegradationResult], page: Path, folder: Path, shown: int, notes: Sequence[str]
) -> None:
    """Write table, plots and grid into the folder, and the page with them.

    Raises:
        UserError: when the measurements are not comparable.
    """
    study = DegradationStudy(tuple(found))
    table = numbers(study)
    for place in (folder, page.parent):
        place.mkdir(parents=True, exist_ok=True)
    write_whole(folder / TABLE, table.to_csv(lineterminator="\n"))
    write_whole(folder / GRID, same_noise_grid(study, shown))
    if study.settings:
        write_whole(folder / PLOT, error_plot(study, table))
    if option := swept(study):
        write_whole(folder / CURVE, curve_plot(study, table, option))
    write_whole(page, _page(study, table, Path(os.path.relpath(folder, page.parent)), notes))


def _page(study: DegradationStudy, table: pd.DataFrame, folder: Path, notes: Sequence[str]) -> str:
    parts = [f"# What quantization alone does to the base {study.reference.record.base}", *notes]
    parts += ["## Prediction error", _about_errors(study), _error_table(study, table)]
    if note := activation_note(study.quants):
        parts += [note]
    if ratios := ratio_table(study):
        about = (
            "Comparison of calibrations: the deviation of the first divided by that of the other, in brackets the 95 % "
            "interval over triples. Not corrected for the number of comparisons."
        )
        parts += [about, ratios]
    if study.settings:
        parts += [f"![error added by quantization, by zone and bits]({(folder / PLOT).as_posix()})"]
    if option := swept(study):
        parts += [f"![deviation by {option.option}]({(folder / CURVE).as_posix()})"]
    parts += ["## Pictures from the same noise", _about_pictures(study), _picture_table(table)]
    parts += [f"![pictures from the same noise]({(folder / GRID).as_posix()})"]
    runs = [f"- {study.label(result)}: {result.run}" for result in (study.reference, *study.settings)]
    parts += [f"All numbers: [{TABLE}]({(folder / TABLE).as_posix()}). Runs:", "\n".join(runs)]
    return "\n\n".join(parts) + "\n"


def _about_errors(study: DegradationStudy) -> str:
    record = study.reference.record
    zones = [f"{name} [{start}, {stop})" for name, (start, stop) in record.zones.items()]
    return (
        f"Base {record.base}; held out: {record.held_out} (seed {record.seed}); "
        f"{len(study.reference.predictions) // len(zones)} triples (x_t, t, text) in each zone: {', '.join(zones)}. "
        "The error is the mean squared difference of prediction and target; in brackets what quantization adds to that "
        "of the float prediction of the same triples. Deviation is the mean squared difference of quantized and float "
        f"prediction, over the float error. {_spread('triples')} The file is the denoiser's, with packed codes; float "
        "counts 32 bits a weight. Time and memory of calibration depend on the machine; memory is that of "
        "the whole process, pages of mapped files included."
    )


def _about_pictures(study: DegradationStudy) -> str:
    reference = study.reference
    known = "" if reference.truth is None else " True pictures show what the questions describe."
    asked = [name for name in reference.pictures if name.startswith(RIGHT)]
    about = " The last columns: the share of questions with this attribute in which the oracle sees it."
    oracle = about if asked else ""
    return (
        f"{len(reference.pictures)} questions, each generated by every setting from the same noise "
        f"({reference.record.sampler}). SSIM and PSNR compare with float's picture; PSNR is that of the mean squared "
        f"error. Scorer: {reference.record.scorer}.{oracle}{known} {_spread('pictures')}"
    )


def _spread(of: str) -> str:
    return f"± is the wider half of the 95 % interval over {of}."


def _written(table: pd.DataFrame, columns: Mapping[str, Write]) -> str:
    """Return the table in Markdown; each column has a title and a function that formats a row."""
    rows = [[str(label), *(write(row) for write in columns.values())] for label, row in table.iterrows()]
    return markdown(["setting", *columns], rows)


def _error_table(study: DegradationStudy, table: pd.DataFrame) -> str:
    zones = study.reference.record.zones
    columns: dict[str, Write] = {
        "quantized layers": lambda row: f"{row['layers']:.0f}",
        "left float": lambda row: row["left_float"] if _quantized(row) else "all",
        "file (MB)": lambda row: f"{row['file_bytes'] / MB:,.2f}",
        "calibration (s)": lambda row: _cost(row["calibration_seconds"], 0),
        "its peak memory (GB)": lambda row: _cost(row["calibration_peak_memory_bytes"] / GB, 2),
        **{zone: partial(_error, zone=zone) for zone in zones},
        **{f"deviation, {zone}": partial(_deviation, zone=zone) for zone in zones},
    }
    return _written(table.drop(index=TRUE_PICTURES, errors="ignore"), columns)


def _picture_table(table: pd.DataFrame) -> str:
    def compared(write: Write) -> Write:
        return lambda row: write(row) if _quantized(row) and not math.isnan(row["ssim"]) else NOTHING

    columns: dict[str, Write] = {
        "SSIM": compared(lambda row: _number(row, "ssim")),
        "PSNR (dB)": compared(_psnr),
        "CLIP-T": lambda row: _number(row, "clip_t"),
        "CLIP-T, change": compared(lambda row: _number(row, "clip_t_change", "+")),
        **{name.replace("_word", ""): partial(_number, key=RIGHT + name) for name in attributes(table)},
    }
    return _written(table, columns)


def _quantized(row: pd.Series) -> bool:
    return bool(row["quant"] != "fp")


def _cost(value: float, decimals: int) -> str:
    return NOTHING if math.isnan(value) else f"{value:,.{decimals}f}"


def _error(row: pd.Series, zone: str) -> str:
    error = f"{row[f'{zone}_error']:.4f}"
    if not _quantized(row):
        return f"{error} ±{_half(row, f'{zone}_error'):.4f}"
    relative, half = 100 * row[f"{zone}_relative"], 100 * _half(row, f"{zone}_relative")
    decimals = 0 if half >= 1 else 1 if half >= 0.1 else 2
    return f"{error} ({relative:+,.{decimals}f} ±{half:,.{decimals}f} %)"


def _deviation(row: pd.Series, zone: str) -> str:
    deviation = 100 * row[f"{zone}_deviation"] / row[f"{zone}_float_error"]
    return f"{deviation:,.{0 if deviation >= 10 else 2}f} %" if _quantized(row) else NOTHING


def _number(row: pd.Series, key: str, sign: str = "") -> str:
    return f"{row[key]:{sign}.3f} ±{_half(row, key):.3f}"


def _psnr(row: pd.Series) -> str:
    """Return PSNR with its interval; equal pictures have no finite one."""
    if math.isinf(row["psnr"]):
        return "∞"
    half = _half(row, "psnr")
    return f"{row['psnr']:.1f}" + ("" if math.isinf(half) else f" ±{half:.1f}")


def _half(row: pd.Series, key: str) -> float:
    return max(row[key] - row[f"{key}_low"], row[f"{key}_high"] - row[key])
