"""Learning-rate schedules, named as in diffusers: factors of the learning rate at an optimizer step.

    rate(s) = s / w                                     for the first w = lr_warmup_steps steps
    constant                1
    cosine                  (1 + cos(pi p)) / 2         p = (s - w) / (steps - w)
    cosine_with_restarts    (1 + cos(pi (n p mod 1))) / 2, 0 at the end
    linear                  1 - p
    polynomial              (1 - p)^power

diffusers' polynomial ends at 1e-7 of its optimizer's unit instead of 0, and its `constant` ignores the warm-up.
"""

from dataclasses import dataclass

import torch

from quantbooth.runtime.errors import UserError

__all__ = ["SCHEDULES", "Rates"]

SCHEDULES = ("constant", "cosine", "cosine_with_restarts", "linear", "polynomial")


@dataclass(frozen=True)
class Rates:
    """The learning-rate schedule of a run.

    Attributes:
        name: one of SCHEDULES.
        warmup_steps: w, the first steps, in which the rate rises from 0.
        num_cycles: n of cosine_with_restarts.
        power: of polynomial.

    Raises:
        UserError: for an option that this schedule does not have.
    """

    name: str
    warmup_steps: int = 0
    num_cycles: int = 1
    power: float = 1.0

    def __post_init__(self) -> None:
        for key, value, owner in (
            ("num_cycles", self.num_cycles, "cosine_with_restarts"),
            ("power", self.power, "polynomial"),
        ):
            if value != 1 and self.name != owner:
                raise UserError(
                    f"tuner.lr_{key}={value} needs tuner.lr_scheduler={owner}, got {self.name}; leave out one of them"
                )

    def at(self, step: int, steps: int) -> float:
        """Return the factor of the learning rate at a step of a run of `steps` steps."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        if self.name == "constant":
            return 1.0
        done, all_steps = step - self.warmup_steps, max(1, steps - self.warmup_steps)
        if self.name == "cosine":
            return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * done / all_steps))))
        if done >= all_steps:
            return 0.0
        if self.name == "cosine_with_restarts":
            return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (self.num_cycles * done / all_steps % 1)))))
        return float((1 - done / all_steps) ** (self.power if self.name == "polynomial" else 1.0))
