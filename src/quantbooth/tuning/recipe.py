"""What a training run is given: the examples of each subject, the hyperparameters, and what makes the optimizer."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.optim import Optimizer

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.encoding import Latents
from quantbooth.tuning.rates import Rates

__all__ = ["Examples", "OptimizerFactory", "Recipe"]

OptimizerFactory = Callable[[Iterable[dict[str, Any]]], Optimizer]
"""Parameter groups -> an optimizer; a group without `lr` uses the optimizer's default."""


@dataclass(frozen=True)
class Examples:
    """The training data of one subject.

    Attributes:
        subject: latents of the subject's photos; cached ones need no autoencoder any more.
        subject_text: the encoded instance prompt, one row.
        prior: latents of the class pictures.
        prior_text: the encoded class prompt, one row.
        name: of the subject, the label of its loss curve where there are several.
        prior_texts: encoded class prompts, if there are several.
        prior_rows: the row of `prior_texts` of each class picture; None draws one for each.
    """

    subject: Latents
    subject_text: Conditioning
    prior: Latents
    prior_text: Conditioning
    name: str = ""
    prior_texts: Conditioning | None = None
    prior_rows: Int[Tensor, " n"] | None = None

    def class_prompts(self, pictures: Int[Tensor, " b"], draw: torch.Generator) -> Conditioning:
        """Return the class prompt of each of these class pictures."""
        if self.prior_texts is None:
            return self.prior_text.expand(len(pictures))
        if self.prior_rows is None:
            return self.prior_texts[torch.randint(len(self.prior_texts), (len(pictures),), generator=draw)]
        return self.prior_texts[self.prior_rows[pictures]]


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training run.

    Attributes:
        steps: optimizer steps.
        train_batch_size: photos of the subject per step.
        class_batch_size: class pictures per step; 0 is no prior preservation.
        num_class_images: generated class pictures; 0 takes the photos, with `distills`.
        prior_loss_weight: lambda of the DreamBooth loss.
        distills: whether the target of class pictures is the untuned base's prediction, in place of their noise.
        dco_beta: beta of DCO's loss on photos (see `consistency_loss`); None is the squared error.
        pull: weight of the squared distance of the parameters from the untuned base (arXiv 2505.19519).
        loss_weight_max: weight each error by min(1 / alpha_bar, loss_weight_max); None weights all equally.
        lr_scheduler: the learning-rate schedule, by its name or with its options (see `tuning.rates`).
        seed: decides photos, noise and timesteps of every step.
        ema_decay: decay of the EMA of the trainable parameters, which is saved; None saves the last step's parameters.
        rates: learning rates by kind of parameter; the other kinds use the optimizer's.
        accumulate_grad_batches: batches per optimizer step; each has its own draws.
        clips_norms: whether the trainer clips the norm of all gradients, which couples the parameters.
    """

    steps: int
    train_batch_size: int
    class_batch_size: int
    prior_loss_weight: float
    loss_weight_max: float | None
    lr_scheduler: str | Rates
    seed: int
    ema_decay: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    accumulate_grad_batches: int = 1
    clips_norms: bool = False
    num_class_images: int = 0
    distills: bool = False
    dco_beta: float | None = None
    pull: float = 0.0

    @property
    def makes_class_pictures(self) -> bool:
        return bool(self.class_batch_size and self.num_class_images)

    @property
    def needs_teacher(self) -> bool:
        return self.distills or self.dco_beta is not None

    @property
    def batch(self) -> int:
        return self.train_batch_size + self.class_batch_size

    @property
    def samples_seen(self) -> int:
        return self.samples_of(self.steps)

    def samples_of(self, steps: int) -> int:
        """Return the samples of this many steps."""
        return steps * self.accumulate_grad_batches * self.batch

    @property
    def batches(self) -> int:
        return self.steps * self.accumulate_grad_batches

    def divided(self, devices: int) -> int:
        """Return the number of processes that share a training.

        Raises:
            UserError: when they cannot divide a batch.
        """
        if self.batch % devices:
            raise UserError(
                f"trainer.devices={devices} must divide the {self.batch} rows of a batch, tuner.train_batch_size="
                f"{self.train_batch_size} and prior.class_batch_size={self.class_batch_size}; change one of them"
            )
        return devices

    def rate_at(self, step: int) -> float:
        """Return the factor of the learning rate at a step."""
        rates = self.lr_scheduler if isinstance(self.lr_scheduler, Rates) else Rates(self.lr_scheduler)
        return rates.at(step, self.steps)

    def groups(self, learning: Mapping[str, list[nn.Parameter]]) -> list[dict[str, Any]]:
        """Return the parameter groups for an optimizer, one for each kind of parameter."""
        return [
            {"params": numbers, **({"lr": self.rates[kind]} if kind in self.rates else {})}
            for kind, numbers in learning.items()
        ]
