"""The scorer of a run judges a photo and all prompts of each subject before the work that it judges at the end."""

from quantbooth.run.run import Run
from quantbooth.sampling.image_set import UNRELATED

__all__ = ["require_judged"]


def require_judged(run: Run) -> None:
    """Try the scorer on each subject, where scores are missing.

    Raises:
        UserError: when its weights cannot be read, or for a photo, a prompt or a class word that it cannot judge.
    """
    for one in run.subjects:
        if all(one.scores(step).find() for step in run.steps):
            continue
        requests = [request for request in one.requests() if request.kind != UNRELATED]
        texts = dict.fromkeys(request.judged_text for request in requests)
        values = [values for request in requests for values in (request.asked, request.own)]
        run.scorer.check(one.subject.references[:1], list(texts), one.subject.class_word, values)
