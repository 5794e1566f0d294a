"""The prompts of a run are read whole by its base, which the tokenizers tell before any weights are read."""

from collections.abc import Iterable

from quantbooth.diffusion.families.registry import family_in
from quantbooth.diffusion.pretrained import read_tokenizers
from quantbooth.run.run import Run
from quantbooth.run.stopping import guard_texts

__all__ = ["require_read"]


def require_read(run: Run, prompts: Iterable[str] | None = None) -> None:
    """Check that the text encoders of the base read prompts whole, by default all of the subjects.

    Raises:
        UserError: for one that is longer, with the words that would be lost.
    """
    own = (text for one in run.subjects for text in (*one.subject.texts, *one.class_prompts, *guard_texts(one)))
    negative = filter(None, [run.settings["negative_prompt"]])
    tokenizers = read_tokenizers(run.base_folder)
    family_in(run.base_folder).require_whole(tokenizers, [*(own if prompts is None else prompts), *negative])
