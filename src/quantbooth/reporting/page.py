"""The report: one page that opens anywhere without a network, and its tables, plot and pictures as files beside it."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from quantbooth.reporting import areas, differences, style
from quantbooth.reporting.embed import weight_for
from quantbooth.reporting.headline import asked, headline, incomplete
from quantbooth.reporting.images import Grid, grid, grid_sheet, stacked
from quantbooth.reporting.layout import cost_sheet, footnotes, score_sheet, whole_sheet
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study
from quantbooth.reporting.tables import as_csv, as_markdown, caption, latex, rows, table
from quantbooth.reporting.views import Plot, definitions, facts, nowrap, plots, subject_view, view, wide_plots

__all__ = ["write_files", "write_page"]

PROMPTS = 25
"""Most prompts whose pictures are on the page: DreamBooth's."""


def write_page(results: Sequence[Result], folder: Path, commands: Sequence[str], notes: Sequence[str]) -> Path:
    """The page alone of what `write_files` writes."""
    return write_files(results, folder, commands, notes)[0]


def write_files(
    results: Sequence[Result],
    folder: Path,
    commands: Sequence[str],
    notes: Sequence[str],
    unscored: Sequence[str] = (),
) -> list[Path]:
    """Write index.html with its tables, plots and pictures as files of their own into the folder; the page comes first.

    `commands` are what a reader types to get the same; `notes` are sentences on what the numbers do not show,
    `unscored` names runs that were tuned and whose scores are not there. Everything is made before the first file is
    written. Plots are left out while no method is complete.

    Raises:
        UserError: the results do not compare, or a picture is missing or unreadable.
    """
    study = Study(tuple(results))
    frame = table(results)
    drawn, wide = plots(study), wide_plots(study)
    grids = [grid(study, subject, PROMPTS) for subject in study.subjects]
    texts = {
        "table.md": as_markdown(frame, caption(results)),
        "table.csv": as_csv(frame),
        "table.tex": latex(whole_sheet(frame), "method", [caption(results), *footnotes(frame)]),
        "rows.csv": rows(results).to_csv(index=False, lineterminator="\n"),
        "differences.md": differences.as_markdown(study),
        "areas.md": areas.as_markdown(study),
        "snapshots.csv": areas.as_csv(study),
    }
    texts |= {plot.file: plot.svg for plot in (*drawn, *wide)}
    about = {"commands": commands, "notes": notes, "unscored": unscored, "files": [*texts, "grid.png"]}
    texts = {"index.html": _html(study, frame, (drawn, wide), grids, about), **texts}
    few = [grid(study, subject) for subject in study.subjects]
    pictures = stacked([grid_sheet(found, title=found.subject if len(few) > 1 else "") for found in few])
    folder.mkdir(parents=True, exist_ok=True)
    pictures.save(folder / "grid.png")
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return [folder / name for name in (*texts, "grid.png")]


def _html(
    study: Study,
    frame: pd.DataFrame,
    drawn: tuple[list[Plot], list[Plot]],
    grids: list[Grid],
    about: dict[str, Sequence[str]],
) -> str:
    weight = weight_for([file for found in grids for file in found.files])
    environment = Environment(
        loader=PackageLoader("quantbooth.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        **about,
        colours=style,
        title=_title(study),
        asked=asked(study),
        headline=nowrap(headline(study)),
        incomplete=incomplete(study),
        caption=caption(study.results),
        several=len(study.subjects) > 1,
        scores=view(study, score_sheet(frame)),
        costs=view(study, cost_sheet(frame)),
        footnotes=footnotes(frame),
        plots=drawn[0],
        wide=drawn[1],
        areas=areas.area_sheet(study),
        explained=areas.explained(study),
        differences=differences.difference_sheet(study),
        paired=differences.paired(study),
        shares=differences.share_sheet(study),
        subjects=[subject_view(study, found, weight) for found in grids],
        reduced=weight,
        kinds=list(dict.fromkeys(kind for found in grids for kind in found.kinds)),
        definitions=definitions(study, frame),
        facts=facts(study),
        runs=[(label, row["runs"].split(", ")) for label, row in frame.iterrows()],
    )


def _title(study: Study) -> str:
    many = len(study.subjects)
    return f"How each method learned {study.subjects[0] if many == 1 else f'{many} subjects'}"
