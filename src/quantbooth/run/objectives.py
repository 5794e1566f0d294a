"""What a search maximizes: means of scores after the last step."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from quantbooth.evaluation.files import read_record, read_rows
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError

__all__ = ["objective_values", "require_objectives"]

OF_SEVERAL = ("diversity", "prior_kept")


def require_objectives(run: Run) -> None:
    """Refuse an objective that scorer and protocol do not measure, before any work.

    Raises:
        UserError: naming it, and the scores that they measure.
    """
    if not (names := run.settings["objectives"]):
        return
    several = run.protocol.of_several
    known = [name for name in run.scorer.measured_with if name not in OF_SEVERAL or name in several]
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"objectives has {', '.join(unknown)}, which scorer, dino and protocol of these options do not measure; "
            f"measured are {', '.join(known)}"
        )


def objective_values(names: Sequence[str], folders: Sequence[Path]) -> tuple[float, ...]:
    """Return the mean of each score after the last step: over the pictures of a subject, then over subjects.

    Args:
        names: columns of scores.
        folders: of the scores of one setting, every subject at every evaluated step.

    Raises:
        UserError: for a score that no picture of a subject has.
    """
    records = [read_record(folder) for folder in folders]
    last = max(record.step for record in records)
    rows = {one.subject: read_rows(folder) for one, folder in zip(records, folders, strict=True) if one.step == last}
    values = {name: [float(own[name].mean()) for own in rows.values()] for name in names}
    for name, means in values.items():
        if not np.isfinite(means).all():
            raise UserError(f"objectives has {name}, which no picture of these prompts has; choose another protocol")
    return tuple(float(np.mean(means)) for means in values.values())
