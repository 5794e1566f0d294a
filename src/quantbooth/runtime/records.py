"""Hydra's record of a job, a folder with its options and its log: one for each job, and none for a refused one."""

import logging
import shutil
import uuid
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from quantbooth.runtime.hydra_versions import register

__all__ = ["forget", "name_records"]

SWEEP = "multirun.yaml"


def name_records() -> None:
    """Define ${unique:} in configs: eight digits that no other process has, not even one that starts in this second."""
    register("unique", lambda: uuid.uuid4().hex[:8])


def forget() -> None:
    """Remove the record of the running job if nothing was logged, and the folders above it that are empty then."""
    record = Path(HydraConfig.get().runtime.output_dir)
    if not (record / ".hydra").is_dir():  # a command without records
        return
    if any(file.stat().st_size for file in record.rglob("*") if file.is_file() and file.parent.name != ".hydra"):
        return
    _close_logs(record)
    shutil.rmtree(record, ignore_errors=True)
    for folder in _above(record):
        if [path.name for path in folder.iterdir()] == [SWEEP]:  # all jobs of a sweep were refused
            (folder / SWEEP).unlink()
        try:
            folder.rmdir()
        except OSError:  # it is not empty
            return


def _close_logs(record: Path) -> None:
    """Close the log in a record that goes: a later message of this process would look for its folder."""
    for handler in logging.root.handlers[:]:
        if isinstance(handler, logging.FileHandler) and record.absolute() in Path(handler.baseFilename).parents:
            logging.root.removeHandler(handler)
            handler.close()


def _above(record: Path) -> list[Path]:
    """Return the folders above a record, from its day's up to paths.outputs; never one that the user is in."""
    here = (Path.cwd(), *Path.cwd().parents)
    folders = [folder for folder in record.absolute().parents if folder not in here]
    all_records = next((number for number, folder in enumerate(folders) if folder.name in ("runs", "sweeps")), None)
    return [] if all_records is None else folders[: all_records + 3]
