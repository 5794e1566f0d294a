"""quantbooth-report: scores as a table, plots and a page.

quantbooth-report report.scores=[outputs/store/scores/A,outputs/store/scores/B] report.folder=outputs/report
quantbooth-report report.scores=[outputs/store/scores]
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from quantbooth.evaluation.files import read_record, read_rows
from quantbooth.reporting.page import write_files
from quantbooth.reporting.results import Result
from quantbooth.reporting.swept import name_by_what_is_swept
from quantbooth.reporting.tables import print_table, table
from quantbooth.run.run import Run
from quantbooth.runtime.cli import command
from quantbooth.runtime.config import build
from quantbooth.runtime.loggers import log_report
from quantbooth.store.manifest import open_artifact
from quantbooth.store.store import CONFIG
from quantbooth.tuning.files import TUNED, open_tuned, steps_kept, strategy_of

__all__ = ["main", "report"]


def report(cfg: DictConfig, scores: Sequence[Path] = ()) -> Path:
    """Write the report of some scores, those named in report.scores, or those of this very setting; print the table."""
    named = [folder for path in cfg.report.scores for folder in _finished(Path(path))]
    folders = list(scores) or named or _own(cfg)
    results = name_by_what_is_swept([read_result(each) for each in folders], [_settings(each) for each in folders])
    folder = Path(cfg.report.folder)
    missing = unscored([Path(path) for path in cfg.report.scores], results)
    files = write_files(results, folder, [_typed(), *_alone(folders, results)], list(cfg.report.notes), missing)
    log_report(build(cfg.logger, Logger, run="report"), files)
    print_table(table(results))
    if missing:
        print(f"tuned and not scored: {', '.join(missing)}")  # noqa: T201  # what the table cannot tell
    print(f"the page: {folder / 'index.html'}")  # noqa: T201  # what a person looks for next
    return folder


def read_result(folder: Path) -> Result:
    """Scores as the report wants them; the pictures are found beside them in the same store."""
    open_artifact(folder, "scores")
    record, store = read_record(folder), folder.parent.parent
    images, tuned = store / record.images, _tuned(store, record.run) if record.step else None
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
        strategy=None if tuned is None else strategy_of(open_tuned(tuned)),
        kept_until=None if tuned is None else steps_kept(tuned)[-1],
        weights=open_artifact(images, "image_set").parents.get("quantized_base", ""),
    )


def _settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the run, as they are kept with its scores; none where the file is gone."""
    file = folder / CONFIG
    return dict(yaml.safe_load(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def unscored(scores: Sequence[Path], results: Sequence[Result]) -> list[str]:
    """Names of finished tuning runs that no result is of, in the stores of which all scores are reported."""
    known = {result.run for result in results}
    stores = {path.parent for path in scores if _holds_scores(path)}
    runs = (found.parent.name for s in stores for kind in TUNED for found in (s / kind).glob("*/manifest.json"))
    return sorted(set(runs) - known)


def _tuned(store: Path, run: str) -> Path | None:
    """What tuning left, in the same store; None where only its scores were kept."""
    return next((folder for kind in TUNED if (folder := store / kind / run).is_dir()), None)


def _holds_scores(path: Path) -> bool:
    return any(path.glob("*/manifest.json"))


def _finished(path: Path) -> list[Path]:
    """The folder itself, or the finished scores in it when it is the place where a store keeps them."""
    return sorted(found.parent for found in path.glob("*/manifest.json")) or [path]


def _own(cfg: DictConfig) -> list[Path]:
    run = Run(cfg)
    return [one.scores(step).require() for one in run.subjects for step in run.steps]


def _alone(folders: Sequence[Path], results: Sequence[Result]) -> list[str]:
    """What makes each run by itself, from the settings kept beside its scores."""
    of_runs = {result.run: folder for folder, result in zip(folders, results, strict=True) if not result.untuned}
    kept = [folder for folder in of_runs.values() if (folder / CONFIG).is_file()]
    return [f"quantbooth --config-dir {shlex.quote(str(folder))} --config-name config" for folder in kept]


def _typed() -> str:
    """What was typed to get this."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


main = command(report, "quantbooth")

if __name__ == "__main__":
    main()
