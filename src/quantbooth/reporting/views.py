"""What the page shows, prepared for the template: tables with marks, plots, picture grids, definitions, runs."""

import re
from dataclasses import dataclass, replace

import pandas as pd
from markupsafe import Markup, escape

from quantbooth.reporting.areas import curves
from quantbooth.reporting.columns import COSTS
from quantbooth.reporting.embed import SHOWN, Embedded, Weight, embedded
from quantbooth.reporting.frontier import frontier
from quantbooth.reporting.images import Grid
from quantbooth.reporting.layout import INCOMPLETE, Cell, Written, score_sheet
from quantbooth.reporting.plots import oracle_tradeoff, tradeoff
from quantbooth.reporting.study import Arm, Study
from quantbooth.reporting.style import Look, inlined, look
from quantbooth.reporting.tables import table
from quantbooth.reporting.zone_plot import learned_in, strategies, zone_plot

__all__ = [
    "Picture",
    "Plot",
    "SubjectView",
    "TableView",
    "definitions",
    "facts",
    "nowrap",
    "plots",
    "subject_view",
    "view",
    "wide_plots",
]


@dataclass(frozen=True)
class RowView:
    """A table row: its label apart from its incompleteness, and the method's look."""

    label: str
    incomplete: bool
    untuned: bool
    look: Look
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class TableView:
    """Titles and rows of a table."""

    titles: tuple[str, ...]
    rows: tuple[RowView, ...]


@dataclass(frozen=True)
class Plot:
    """A plot as an SVG file of this name, and what to say under it."""

    file: str
    svg: str
    caption: str

    @property
    def inline(self) -> Markup:
        """The SVG to put into the page."""
        return Markup(inlined(self.svg))


@dataclass(frozen=True)
class Picture:
    """A picture of a grid with what it shows in words; no image where there is none."""

    alt: str
    prompt: str
    kind: str
    image: Embedded | None


@dataclass(frozen=True)
class SubjectView:
    """A subject's section: photos, a row of pictures per method, and its own scores where there are more subjects."""

    name: str
    photos: tuple[Picture, ...]
    prompts: tuple[tuple[str, str], ...]
    noise_seed: int
    seed: int
    rows: tuple[tuple[RowView, tuple[Picture, ...]], ...]
    width: int
    scores: TableView | None


def view(study: Study, sheet: Written) -> TableView:
    """A written table whose rows are the study's arms."""
    arms = {study.label(arm): arm for arm in study.arms}
    rows = []
    for label, cells in sheet.rows():
        name = label.removesuffix(f" {INCOMPLETE}")
        rows.append(_row(study, arms[name], cells, label != name))
    return TableView(sheet.titles, tuple(rows))


def plots(study: Study) -> list[Plot]:
    """The trade-off by each judge, intervals of timesteps and trained numbers; none before a method is complete."""
    if not curves(study, "clip_t", "local_clip_i"):
        return []
    steps = sorted({step for arm in study.arms for step in study.steps(arm) if step})
    way = f" Dots on the way: {', '.join(map(str, steps[:-1]))} of {steps[-1]} optimizer steps." if steps[1:] else ""
    bars = " Thin bars: 95 % intervals over subjects." if len(study.subjects) > 1 else ""
    told = f"Judged by CLIP. Up and to the right is better. Dotted: the front that no snapshot passes.{way}{bars}"
    found = [Plot("tradeoff.svg", tradeoff(study.results), told)]
    if oracle := oracle_tradeoff(study.results):
        told = "Judged by the oracle, a classifier that knows what the toy world's pictures show."
        found.append(Plot("tradeoff_oracle.svg", oracle, told))
    return found


def wide_plots(study: Study) -> list[Plot]:
    """Plots of several panels: what intervals of timesteps, and what trained numbers buy, where methods differ."""
    bars = " Thin bars: 95 % intervals over subjects." if len(study.subjects) > 1 else ""
    found = []
    if drawn := zone_plot(study.results):
        told = (
            "What tuning changes, drawn over the timesteps that each method learned in; dotted where a learned set "
            f"also serves. Marks are spread along their lines to be seen.{bars}"
        )
        found.append(Plot("zones.svg", drawn, told))
    if bought := frontier(study.results):
        found.append(Plot("frontier.svg", bought, f"What the numbers that are trained buy.{bars}"))
    return found


def definitions(study: Study, frame: pd.DataFrame) -> list[tuple[str, str]]:
    """What each column of the tables means."""
    costs = [cost for cost in COSTS if frame[cost.key].replace("", float("nan")).notna().any()]
    return [(s.title, s.meaning) for s in study.scores] + [(c.title, c.meaning) for c in costs]


def facts(study: Study) -> list[tuple[str, str]]:
    """The setting, in names and values."""
    first = study.results[0]
    told = [("base", _base(first.base)), ("scorer", first.scorer)]
    if first.protocol:
        told.append(("protocol", first.protocol))
    told += [
        ("subjects", ", ".join(study.subjects)),
        ("tuning seeds", ", ".join(map(str, study.seeds))),
        ("images", f"{len(first.rows)} for each subject, method, seed and snapshot; {_total(study):,} in all"),
    ]
    return told + [(study.label(arm), learned_in(strategy)) for arm, strategy in strategies(study).items()]


def nowrap(sentence: str) -> Markup:
    """The sentence with what stands in round brackets held together in one line."""
    return Markup(re.sub(r"\([^()]*\)", r'<span class="hold">\g<0></span>', str(escape(sentence))))


def _base(name: str) -> str:
    if not name.startswith("toy"):
        return name
    return (
        f"{name}: a small model shaped like Stable Diffusion, pre-trained by this project on pictures of a drawn toy "
        "world; its figures compare methods and say nothing about Stable Diffusion itself"
    )


def _total(study: Study) -> int:
    return sum(len(result.rows) for result in study.results)


def _row(study: Study, arm: Arm, cells: tuple[Cell, ...] = (), incomplete: bool = False) -> RowView:
    methods = tuple(dict.fromkeys(other.method for other in study.arms))
    return RowView(study.label(arm), incomplete, arm.untuned, look(arm.method, methods), cells)


def subject_view(study: Study, found: Grid, weight: Weight) -> SubjectView:
    """A subject's section from its grid, its pictures of that weight."""
    name = found.subject
    photos = tuple(
        Picture(f"photo {k} of {name}", "", "", embedded(file, weight)) for k, file in enumerate(found.photos, 1)
    )
    rows = []
    for row in found.rows:
        pictures = tuple(
            Picture(f"{row.label}: {prompt}", prompt, kind, None if file is None else embedded(file, weight))
            for prompt, kind, file in zip(found.prompts, found.kinds, row.files, strict=True)
        )
        rows.append((_row(study, row.arm, (), bool(study.lacking(row.arm))), pictures))
    width = max((p.image.width for _, pictures in rows for p in pictures if p.image), default=SHOWN)
    prompts = tuple(zip(found.prompts, found.kinds, strict=True))
    scores = _own_scores(study, name) if len(study.subjects) > 1 else None
    return SubjectView(name, photos, prompts, found.noise_seed, found.seed, tuple(rows), width, scores)


def _own_scores(study: Study, subject: str) -> TableView:
    """The subject's own means, unmarked: one subject crowns no method."""
    own = [result for result in study.results if result.subject == subject]
    frame = table(own)
    frame["best"] = ""
    shown = view(Study(tuple(own)), score_sheet(frame))
    return replace(shown, rows=tuple(replace(row, incomplete=False) for row in shown.rows))
