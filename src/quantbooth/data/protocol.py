"""The evaluation protocol: which prompts are generated with which noise seeds, after which steps of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from quantbooth.runtime.errors import UserError

__all__ = ["AUTO", "Protocol"]

AUTO = "auto"
SCORED = 25
"""Default number of pictures scored at a time: the encoders are small."""


@dataclass(frozen=True)
class Protocol:
    """How a tuned model is evaluated.

    Attributes:
        name: its name in tables.
        seeds: noise seeds; every prompt is generated once with each.
        prompt_stride: use every n-th prompt of the subject.
        eval_steps: optimizer steps to evaluate, in addition to the last.
        batch: pictures at a time, or AUTO: as many as fit into memory during generation.
        prior_prompts: number of unrelated prompts to generate too, to measure the damage to the prior; 0 is none.
    """

    name: str
    seeds: Sequence[int]
    prompt_stride: int
    eval_steps: Sequence[int]
    batch: int | str
    prior_prompts: int = 0

    def __str__(self) -> str:
        others = f", {self.prior_prompts} prompts of other subjects" if self.prior_prompts else ""
        return f"{self.name}, {len(self.seeds)} seeds a prompt{others}"

    @property
    def scored(self) -> int:
        """Number of pictures to score at a time."""
        return SCORED if self.batch == AUTO else int(self.batch)

    @property
    def choice(self) -> dict[str, object]:
        """The options that decide the pictures of the subject."""
        return {"seeds": list(self.seeds), "prompt_stride": self.prompt_stride}

    @property
    def of_several(self) -> list[str]:
        """The scores of several pictures that this protocol allows."""
        return [*(["diversity"] if len(self.seeds) > 1 else []), *(["prior_kept"] if self.prior_prompts else [])]

    def steps(self, last: int) -> list[int]:
        """Return the steps at which a run is evaluated, in ascending order: 0, `eval_steps`, and the last.

        Raises:
            UserError: for a step after the last.
        """
        if any(step > last for step in self.eval_steps):
            raise UserError(f"protocol.eval_steps must be in [1, tuner.steps = {last}], got {list(self.eval_steps)}")
        return sorted({0, *self.eval_steps, last})
