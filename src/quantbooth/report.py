"""quantbooth-report: scores as a table, plots and a page.

quantbooth-report report.scores=[outputs/store/scores/A,outputs/store/scores/B] report.folder=outputs/report
quantbooth-report report.scores=[outputs/store/scores]
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from quantbooth.artifacts.manifest import open_artifact
from quantbooth.artifacts.scores import read_record, read_rows
from quantbooth.artifacts.tuned import read_strategy
from quantbooth.cli import command
from quantbooth.config import build
from quantbooth.plan import Plan
from quantbooth.reporting.page import write_files
from quantbooth.reporting.results import Result
from quantbooth.reporting.tables import print_table, table
from quantbooth.stages.report_logging import log_report
from quantbooth.timesteps.strategies import Strategy

__all__ = ["main", "report"]

LEARNED = ("scale_sets", "tuned_unet", "adapters")
"""Kinds of what tuning makes."""


def report(cfg: DictConfig, scores: Sequence[Path] = ()) -> Path:
    """Write the report of some scores, those named in report.scores, or those of this very setting; print the table."""
    named = [folder for path in cfg.report.scores for folder in _finished(Path(path))]
    folders = list(scores) or named or _own(cfg)
    results = [read_result(folder) for folder in folders]
    folder = Path(cfg.report.folder)
    files = write_files(results, folder, commands=[_typed()], notes=list(cfg.report.notes))
    log_report(build(cfg.logger, Logger, run="report"), files)
    print_table(table(results))
    print(f"the page: {folder / 'index.html'}")  # noqa: T201  # what a person looks for next
    return folder


def read_result(folder: Path) -> Result:
    """Scores as the report wants them; the pictures are found beside them in the same store."""
    open_artifact(folder, "scores")
    record, store = read_record(folder), folder.parent.parent
    images = store / record.images
    return Result(
        method=record.method,
        subject=record.subject,
        quant=record.quant,
        seed=record.seed,
        step=record.step,
        base=record.base,
        scorer=record.scorer,
        rows=read_rows(folder),
        costs=record.costs,
        images=images,
        references=images / "references",
        run=record.run,
        protocol=record.protocol,
        strategy=_strategy(store, record.run) if record.step else None,
    )


def _strategy(store: Path, run: str) -> Strategy | None:
    """Of a tuned artifact in the same store; None where only its scores were kept."""
    folder = next((folder for kind in LEARNED if (folder := store / kind / run).is_dir()), None)
    return None if folder is None else read_strategy(folder)


def _finished(path: Path) -> list[Path]:
    """The folder itself, or the finished scores in it when it is the place where a store keeps them."""
    return sorted(found.parent for found in path.glob("*/manifest.json")) or [path]


def _own(cfg: DictConfig) -> list[Path]:
    plan = Plan(cfg)
    return [plan.scores(step).require() for step in plan.steps]


def _typed() -> str:
    """What was typed to get this."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


main = command(report, "quantbooth")

if __name__ == "__main__":
    main()
