"""The report: one page that opens anywhere without a network, and its tables, plots and pictures as files."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from quantbooth.reporting import areas, differences, overfitting, stopping, style, summary
from quantbooth.reporting.embed import SHOWN, Embedded, Encoding, embedded, encoding_for
from quantbooth.reporting.experts import experts_left_out, experts_plot
from quantbooth.reporting.heat_map import heat_map, interval_map, maps_left_out
from quantbooth.reporting.images import Grid, grid, grid_sheet, stacked
from quantbooth.reporting.panels import frontier, zone_plot
from quantbooth.reporting.plots import losses, tradeoff
from quantbooth.reporting.score_table import caption, named_runs, picture_rows, runs, score_table
from quantbooth.reporting.search import pareto_plot, trial_table
from quantbooth.reporting.strengths import strength_curves
from quantbooth.reporting.study import Study
from quantbooth.reporting.tables import Row, Table
from quantbooth.store.files import write_whole

__all__ = ["About", "write_report"]

FEW = 8
"""Prompts on the sheet of pictures; the page has all."""


@dataclass(frozen=True)
class About:
    """What the page says beyond the scores.

    Attributes:
        commands: commands that reproduce the scores.
        notes: sentences on what the numbers do not show.
        unscored: names of tuned runs without scores.
        made: names and values: when, by which versions, from which commit.
        objectives: scores by which trials are compared; empty: no search.
    """

    commands: Sequence[str] = ()
    notes: Sequence[str] = ()
    unscored: Sequence[str] = ()
    made: Sequence[tuple[str, str]] = ()
    objectives: Sequence[str] = ()


@dataclass(frozen=True)
class Plot:
    """A plot as an SVG file of this name, with its caption."""

    file: str
    svg: str
    caption: str

    @property
    def inline(self) -> Markup:
        """The SVG for the page."""
        return Markup(style.inlined(self.svg))


@dataclass(frozen=True)
class Picture:
    """A picture of a grid with its description; no image where it is missing."""

    alt: str
    prompt: str
    kind: str
    image: Embedded | None


@dataclass(frozen=True)
class SubjectView:
    """A subject's section: its grid, with pictures ready to show, and its own scores where there are more subjects."""

    grid: Grid
    photos: tuple[Picture, ...]
    rows: tuple[tuple[Row, tuple[Picture, ...]], ...]
    width: int
    scores: Table | None


def write_report(study: Study, folder: Path, about: About) -> list[Path]:
    """Write index.html, tables, plots and pictures into the folder; return the page first.

    Everything is made before the first file is written. Plots are left out while no method is complete.

    Raises:
        UserError: a picture is missing or unreadable.
    """
    table = score_table(study)
    trades, wide = _plots(study)
    found, fronts = _search(study, about.objectives)
    grids = [grid(study, subject) for subject in study.subjects]
    texts = {
        "table.md": "\n\n".join([caption(study), table.to_markdown(), *table.notes, named_runs(table)]) + "\n",
        "table.csv": table.to_csv(),
        "table.tex": table.to_latex(caption(study)),
        "rows.csv": picture_rows(study).to_csv(index=False, lineterminator="\n"),
        "differences.md": differences.as_markdown(study),
        "areas.md": areas.as_markdown(study),
        "overfitting.md": overfitting.as_markdown(study),
        "stopping.md": stopping.as_markdown(study),
        "snapshots.csv": areas.snapshots_csv(study),
        **({"trials.md": "\n\n".join([found.to_markdown(), *found.notes]) + "\n"} if found else {}),
        **({"trials.csv": found.to_csv()} if found else {}),
        **{plot.file: plot.svg for plot in (*fronts, *trades, *wide)},
    }
    shown = {"plots": trades, "wide": wide, "files": [*texts, "grid.png"], "scores": table.only("scores")}
    shown |= {"trials": found, "fronts": fronts}
    html = _html(study, table, grids, {**vars(about), **shown})
    few = [grid(study, subject, FEW) for subject in study.subjects]
    pictures = stacked([grid_sheet(found, title=found.subject if len(few) > 1 else "") for found in few])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"index.html": html, **texts}.items():
        write_whole(folder / name, text)
    buffer = io.BytesIO()
    pictures.save(buffer, format="PNG")
    write_whole(folder / "grid.png", buffer.getvalue())
    return [folder / name for name in ("index.html", *texts, "grid.png")]


def _search(study: Study, objectives: Sequence[str]) -> tuple[Table | None, list[Plot]]:
    """Return the table of trials and the plot of their front; nothing without objectives."""
    found = trial_table(study, objectives) if objectives else None
    if found is None or not found.rows:
        return None, []
    scores = " and ".join(column.title for column in found.columns if column.key in objectives[:2])
    caption = f"Trials by {scores}. Numbers: the front, as in the table; grey: trials that another passes; ring: the "
    return found, _made([("pareto.svg", pareto_plot(study, objectives), f"{caption}untuned base.")])


def _html(study: Study, table: Table, grids: list[Grid], shown: dict[str, Any]) -> str:
    encoding = encoding_for([file for found in grids for file in found.files])
    environment = Environment(
        loader=PackageLoader("quantbooth.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        **shown,
        colours=style,
        title=summary.title(study),
        asked=summary.asked(study),
        headline=_nowrap(summary.headline(study)),
        incomplete=summary.incomplete(study),
        caption=caption(study),
        several=len(study.subjects) > 1,
        costs=table.only("costs"),
        footnotes=table.notes,
        key=[row for row in table.rows if row.style and not row.style.hollow],
        areas=areas.area_table(study),
        explained=areas.explained(study),
        differences=differences.difference_table(study),
        paired=differences.paired(study),
        shares=differences.share_table(study),
        shares_are=differences.SHARES,
        subjects=[_subject(study, found, encoding) for found in grids],
        reduced=encoding,
        prompts=max(len(found.prompts) for found in grids),
        kinds=list(dict.fromkeys(kind for found in grids for kind in found.kinds)),
        definitions=summary.definitions(study, table),
        facts=summary.facts(study),
        runs=runs(table),
    )


def _plots(study: Study) -> tuple[list[Plot], list[Plot]]:
    """Return the trade-off by each judge; and the timesteps, trained numbers and losses, where there is something."""
    steps = sorted({step for method in study.tuned for step in study.steps(method)})
    way = f" Dots on the way: {', '.join(map(str, steps[:-1]))} of {steps[-1]} optimizer steps." if steps[1:] else ""
    bars = " Thin bars: 95 % intervals over subjects." if len(study.subjects) > 1 else ""
    judged = next(((x, y) for _, x, y in reversed(areas.TRADES) if y in {score.key for score in study.scores}))
    trades = [
        (
            "tradeoff.svg",
            tradeoff(study),
            "Judged by CLIP. Up and to the right is better; arrows point to later steps. Dotted: the front that no "
            f"snapshot passes.{way}{bars}",
        ),
        (
            "tradeoff_oracle.svg",
            tradeoff(study, "oracle_prompt", "oracle_subject"),
            "Judged by the oracle, a classifier that knows what the toy world's pictures show.",
        ),
        (
            "tradeoff_strengths.svg",
            tradeoff(study, *judged, strength_curves),
            "What was tuned, used at several strengths (×) without tuning again: from the untuned base (×0) on; ×1 is "
            f"what was learned.{bars}",
        ),
    ]
    return _made(trades), _made(_of_training(study, bars))


def _of_training(study: Study, bars: str) -> list[tuple[str, str | None, str]]:
    """Return the plots of timesteps, trained numbers and losses."""
    return [
        (
            "zones.svg",
            zone_plot(study),
            "Change by tuning, over the timesteps that each method was trained on; dotted where a set is "
            f"also used. Markers are spread along their lines.{bars}",
        ),
        (
            "experts.svg",
            experts_plot(study),
            "Filled: the timesteps of training samples, with the share that each expert sees (heights within a row; "
            "below a dashed line: as one set). A line above: a set that is added to the experts. Ticks: steps of the "
            f"sampler, with the share that each serves; grey: the untuned base. {experts_left_out(study)}".rstrip(),
        ),
        (
            "heat_map.svg",
            heat_map(study),
            "One set: the interval of timesteps that it learned in, against the one that it is used in; elsewhere the "
            f"untuned base. Means over subjects. {maps_left_out(study)}".rstrip(),
        ),
        (
            "interval_map.svg",
            interval_map(study),
            "One set per interval of timesteps that it learned in. Means over subjects; colours are within a row. "
            f"{maps_left_out(study)}".rstrip(),
        ),
        ("frontier.svg", frontier(study), f"Scores by number of trained parameters.{bars}"),
        ("loss.svg", losses(study), "Training loss as logged, means over neighbouring steps; a line per run."),
    ]


def _made(drawn: Sequence[tuple[str, str | None, str]]) -> list[Plot]:
    return [Plot(file, svg, text) for file, svg, text in drawn if svg]


def _subject(study: Study, found: Grid, encoding: Encoding) -> SubjectView:
    photos = tuple(
        Picture(f"photo {k} of {found.subject}", "", "", embedded(file, encoding))
        for k, file in enumerate(found.photos, 1)
    )
    rows = []
    for row in found.rows:
        pictures = tuple(
            Picture(f"{row.label}: {prompt}", prompt, kind, None if file is None else embedded(file, encoding))
            for prompt, kind, file in zip(found.prompts, found.kinds, row.files, strict=True)
        )
        rows.append((Row(row.label, {}, study.style(row.method), bool(study.lacking(row.method))), pictures))
    width = max((p.image.width for _, pictures in rows for p in pictures if p.image), default=SHOWN)
    scores = score_table(study, found.subject) if len(study.subjects) > 1 else None
    return SubjectView(found, photos, tuple(rows), width, scores)


def _nowrap(sentence: str) -> Markup:
    """Return the sentence with its parentheses kept on one line."""
    return Markup(re.sub(r"\([^()]*\)", r'<span class="hold">\g<0></span>', str(escape(sentence))))
