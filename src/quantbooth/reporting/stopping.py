"""The table of runs that could stop before their last step: where each did, and why."""

from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study
from quantbooth.reporting.tables import as_text, markdown
from quantbooth.tuning.stopping import AT_THE_END, BY_LOSS, BY_PROMPTS

__all__ = ["as_markdown"]

WORDS = {AT_THE_END: "its last step", BY_LOSS: "the loss no longer moves", BY_PROMPTS: "prompt fidelity fell"}
EXPLAINED = (
    "Trainings that could stop before their last step (`tuner.stopping`). What is drawn for a later step was learned "
    "in the step in which the training stopped."
)


def as_markdown(study: Study) -> str:
    """Return a row for each training that could stop, under an explanation; a line where none could."""
    found = [
        [
            as_text(study.label(method)),
            as_text(result.subject),
            str(result.seed),
            str(training),
            f"{at:,.0f}",
            WORDS[by],
        ]
        for method in study.tuned
        for result in study.at(*study.last(method))
        for training, (at, by) in enumerate(_ends(result), start=1)
    ]
    if not found:
        return "No training could stop before its last step.\n"
    return f"{EXPLAINED}\n\n{markdown(['method', 'subject', 'seed', 'training', 'steps', 'ended by'], found)}\n"


def _ends(result: Result) -> list[tuple[float, int]]:
    """Return the last step of each training of a run, and by what it ended."""
    steps, reasons = (result.costs.get(key, ()) for key in ("stopped_at", "stopped_by"))
    if isinstance(steps, int | float) or isinstance(reasons, int | float):
        return []
    return [(at, int(by)) for at, by in zip(steps, reasons, strict=True)]
