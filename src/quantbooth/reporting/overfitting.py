"""The table of overfitting: APT's indicator of each method in each timestep bin (see `tuning.overfitting`)."""

from typing import Any

import numpy as np

from quantbooth.reporting.study import Method, Study
from quantbooth.reporting.tables import as_text, markdown

__all__ = ["as_markdown"]

KEY = "overfitting"
EXPLAINED = (
    "Overfitting after the last step, in equal parts of the timesteps from clean to noise: 0 where the tuned base "
    "denoises the subject's photos as the untuned one, 0.63 where it has no error left. Mean over subjects and seeds."
)


def as_markdown(study: Study) -> str:
    """Return the table under an explanation, or a line that there is none; earlier runs lack the figures."""
    found = {method: rows for method in study.tuned if (rows := _known(study, method))}
    if not found:
        return "No run has measured its overfitting.\n"
    means = {method: np.mean(rows, axis=0) for method, rows in found.items()}
    bins = range(1, 1 + max(map(len, means.values())))
    lines = [[as_text(study.label(method)), *(f"{value:.3f}" for value in mean)] for method, mean in means.items()]
    return f"{EXPLAINED}\n\n{markdown(['method', *map(str, bins)], lines)}\n"


def _known(study: Study, method: Method) -> list[Any]:
    results = study.at(*study.last(method))
    return [value for result in results if (value := result.costs.get(KEY)) is not None]
