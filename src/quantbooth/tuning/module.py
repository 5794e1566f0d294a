"""The training module: DreamBooth's objective on the timesteps of a strategy, for the parameters of any tuner."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.objective import denoising_error, with_prior_preservation
from quantbooth.diffusion.router import SubjectsRoute
from quantbooth.runtime.draws import generator_for, step_loader
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.zones import Zones
from quantbooth.tuning.averaging import Average
from quantbooth.tuning.encoding import CachedPrompt, Latents

__all__ = ["Examples", "OptimizerFactory", "Recipe", "TuningModule"]

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
    """

    subject: Latents
    subject_text: Conditioning
    prior: Latents
    prior_text: Conditioning
    name: str = ""


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training run.

    Attributes:
        steps: optimizer steps.
        train_batch_size: photos of the subject per step.
        class_batch_size: class pictures per step; 0 is no prior preservation.
        prior_loss_weight: lambda of the DreamBooth loss.
        loss_weight_max: weight each error by min(1 / alpha_bar, loss_weight_max); None weights all equally.
        lr_scheduler: cosine decays the learning rate along half a cosine to 0 over the run; constant keeps it.
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
    lr_scheduler: str
    seed: int
    ema_decay: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    accumulate_grad_batches: int = 1
    clips_norms: bool = False

    @property
    def batch(self) -> int:
        return self.train_batch_size + self.class_batch_size

    @property
    def samples_seen(self) -> int:
        return self.batches * self.batch

    @property
    def batches(self) -> int:
        return self.steps * self.accumulate_grad_batches

    def rate_at(self, step: int) -> float:
        """Return the factor of the learning rate at a step."""
        if self.lr_scheduler == "constant":
            return 1.0
        return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * step / self.steps))))

    def groups(self, learning: Mapping[str, list[nn.Parameter]]) -> list[dict[str, Any]]:
        """Return the parameter groups for an optimizer, one for each kind of parameter."""
        return [
            {"params": numbers, **({"lr": self.rates[kind]} if kind in self.rates else {})}
            for kind, numbers in learning.items()
        ]


@dataclass(frozen=True)
class Rows:
    """The rows of one subject in the batch of a step.

    Attributes:
        x_0: latents.
        conditioning: of each row.
        noise: standard normal.
        t: training timesteps, on the CPU.
        is_prior: 1 for a class picture, 0 for a photo of the subject.
    """

    x_0: Float[Tensor, "b c h w"]
    conditioning: Conditioning
    noise: Float[Tensor, "b c h w"]
    t: Int[Tensor, " b"]
    is_prior: Float[Tensor, " b"]


class TuningModule(LightningModule):
    """One training run, in which every sample of a batch has its own timestep and scale set.

    Several subjects can share the batch: each has its own rows, drawn as in a separate run, and its own sets, which
    only these rows use. The loss is the sum over subjects, so every set gets the gradient of a separate run; optimizers
    that update every parameter independently, such as AdamW, then take the same steps.

    Args:
        base: has the trainable parameters and the router attached; autoencoder and text encoders are not needed.
        learning: the trainable parameters, by kind.
        examples: training data of each subject.
        zones: the training timesteps.
        recipe: hyperparameters.
        optimizer: makes the optimizer.
        sentences: encode each subject's prompt at every step; None uses the encoded prompts of the examples.
        route: assigns rows to subjects; None for a single subject.

    Raises:
        UserError: when the loss is not a finite number.
    """

    def __init__(
        self,
        base: Base,
        learning: Mapping[str, list[nn.Parameter]],
        examples: Sequence[Examples],
        zones: Zones,
        recipe: Recipe,
        optimizer: OptimizerFactory,
        sentences: Sequence[nn.Module] | None = None,
        route: SubjectsRoute | None = None,
    ) -> None:
        super().__init__()
        self.base, self.denoiser = base, base.denoiser
        self.learning = learning
        self.examples = tuple(examples)
        self.zones = zones
        self.schedule = base.schedule
        self.recipe = recipe
        self.optimizer_factory = optimizer
        self.sentences = nn.ModuleList(sentences or [CachedPrompt(one.subject_text) for one in examples])
        self.route = route
        self.average: Average | None = None
        self.seen = torch.zeros(len(examples), len(zones), dtype=torch.int64)
        """How many samples each expert saw, by subject."""

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_factory(self.recipe.groups(self.learning))
        if self.recipe.ema_decay is not None:
            average = self.average = Average(self.numbers, self.recipe.ema_decay)
            optimizer.register_step_post_hook(lambda *_: average.update_())
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.recipe.rate_at)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def numbers(self) -> list[nn.Parameter]:
        """All trainable parameters."""
        return [numbers for kind in self.learning.values() for numbers in kind]

    def kept(self) -> AbstractContextManager[None]:
        """Return a context in which the parameters are those to save: their EMA, if used."""
        return nullcontext() if self.average is None else self.average.in_place()

    def train_dataloader(self) -> object:
        return step_loader(self.recipe.batches)

    def training_step(self, number: int) -> Tensor:
        each = self.recipe.accumulate_grad_batches
        number = self.global_step * each + number % each  # of the batch in the run, also in one that goes on
        subjects = range(len(self.examples))
        drawn = [self.rows(subject, number) for subject in subjects]
        conditioning = Conditioning.cat([rows.conditioning for rows in drawn])
        tensors = zip(*((rows.x_0, rows.noise, rows.t, rows.is_prior) for rows in drawn), strict=True)
        x_0, noise, t, is_prior = (torch.cat(parts) for parts in tensors)
        self._count(t)
        t = t.to(x_0.device)
        if self.route is not None:
            self.route.choose(torch.arange(len(subjects)).repeat_interleave(self.recipe.batch))
        errors = denoising_error(self.base, self.schedule, x_0, noise, t, conditioning)
        if self.recipe.loss_weight_max is not None:
            errors = errors * self.schedule.bounded_inverse_weight(t, self.recipe.loss_weight_max)
        shares = zip(errors.split(self.recipe.batch), is_prior.split(self.recipe.batch), strict=True)
        losses = torch.stack([with_prior_preservation(*share, self.recipe.prior_loss_weight) for share in shares])
        self._show(losses)
        return losses.sum()

    def rows(self, subject: int, number: int) -> Rows:
        """Return a subject's rows of the run's batch of this number, which do not depend on other subjects."""
        draw = generator_for(self.recipe.seed, number, "tune")
        x_0, conditioning, is_prior = self.batch(draw, subject)
        noise = torch.randn(x_0.shape, generator=draw).to(x_0)
        return Rows(x_0, conditioning, noise, self.zones.draw(len(x_0), draw), is_prior)

    def batch(self, draw: torch.Generator, subject: int = 0) -> tuple[Tensor, Conditioning, Tensor]:
        """Return latents, conditioning and class-picture flags of one subject for one step."""
        examples, recipe = self.examples[subject], self.recipe
        photos = torch.randint(len(examples.subject), (recipe.train_batch_size,), generator=draw)
        parts, texts = [examples.subject[photos]], [self.sentences[subject]().expand(recipe.train_batch_size)]
        if recipe.class_batch_size:
            others = torch.randint(len(examples.prior), (recipe.class_batch_size,), generator=draw)
            parts.append(examples.prior[others])
            texts.append(examples.prior_text.expand(recipe.class_batch_size))
        is_prior = torch.arange(recipe.batch) >= recipe.train_batch_size
        conditioning = Conditioning.cat([text.to(self.device) for text in texts])
        return torch.cat(parts).to(self.device), conditioning, is_prior.float().to(self.device)

    def _count(self, t: Int[Tensor, " b"]) -> None:
        """Count the samples of a batch, the rows of one subject after those of another."""
        for seen, own in zip(self.seen, self.zones.index(t).split(self.recipe.batch), strict=True):
            seen += torch.bincount(own - 1, minlength=len(seen))

    def _show(self, losses: Tensor) -> None:
        """Log the mean loss, and the loss of each subject if there are several; refuse a loss that is not finite."""
        for examples, loss in zip(self.examples, losses, strict=True):
            if not torch.isfinite(loss):
                whose = f" of {examples.name}" if len(losses) > 1 else ""
                raise UserError(
                    f"the loss{whose} became {loss.item()} in step {self.global_step + 1}; lower tuner.learning_rate"
                )
            if len(losses) > 1:
                self.log(f"tune/loss/{examples.name}", loss)
        self.log("tune/loss", losses.mean(), prog_bar=True)
