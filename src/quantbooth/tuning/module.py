"""The training module: DreamBooth's objective on the timesteps of a strategy, for the parameters of any tuner."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.objective import consistency_loss, denoising_error, mean_square, with_prior_preservation
from quantbooth.diffusion.router import SubjectsRoute
from quantbooth.runtime.devices import sent
from quantbooth.runtime.draws import generator_for, step_loader
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.processes import Share
from quantbooth.timesteps.samplers import TimestepSampler, Uniform
from quantbooth.timesteps.zones import Zone, Zones
from quantbooth.tuning.averaging import Average
from quantbooth.tuning.encoding import CachedPrompt
from quantbooth.tuning.recipe import Examples, OptimizerFactory, Recipe
from quantbooth.tuning.sharing import share_gradients_
from quantbooth.tuning.teacher import Distance, Teacher

__all__ = ["Rows", "TuningModule"]

UNIFORM = Uniform()


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

    def __getitem__(self, rows: slice) -> "Rows":
        """Return some rows."""
        return Rows(self.x_0[rows], self.conditioning[rows], self.noise[rows], self.t[rows], self.is_prior[rows])


@dataclass(frozen=True)
class Errors:
    """The errors of a batch: of each row, with its timestep (on the CPU), and the loss of each subject."""

    errors: Float[Tensor, " b"]
    t: Int[Tensor, " b"]
    losses: Float[Tensor, " subjects"]


class TuningModule(LightningModule):
    """One training run, in which every sample of a batch has its own timestep and scale set.

    Several subjects can share the batch: each has its own rows, drawn as in a separate run, and its own sets, which
    only these rows use. The loss is the sum over subjects, so every set gets the gradient of a separate run; optimizers
    that update every parameter independently, such as AdamW, then take the same steps.

    Args:
        base: has the trainable parameters and the router attached; an autoencoder only where steps encode pictures.
        learning: the trainable parameters, by kind.
        examples: training data of each subject.
        zones: the training timesteps.
        recipe: hyperparameters.
        optimizer: makes the optimizer.
        sentences: encode each subject's prompt at every step; None uses the encoded prompts of the examples.
        route: assigns rows to subjects; None for a single subject.
        teacher: the untuned base, where the recipe needs it.
        distance: of the parameters from the untuned base, where the recipe pulls them there.
        shared_steps: the first steps, in which all experts of a subject are one set; they must start equal.
        wide: the timesteps of a set before those of the zones, if there is one.
        timesteps: draws timesteps in the zones.
        share: the part of this process in a training of several; each draws the joint batch and computes its rows.

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
        teacher: Teacher | None = None,
        distance: Distance | None = None,
        shared_steps: int = 0,
        wide: Zone | None = None,
        timesteps: TimestepSampler = UNIFORM,
        share: Share | None = None,
    ) -> None:
        super().__init__()
        self.base, self.denoiser = base, base.denoiser
        self.autoencoder = base.autoencoder  # moves along, where each step encodes its pictures
        self.learning = learning
        self.examples = tuple(examples)
        self.zones = zones
        self.schedule = base.schedule
        self.recipe = recipe
        self.optimizer_factory = optimizer
        self.sentences = nn.ModuleList(sentences or [CachedPrompt(one.subject_text) for one in examples])
        self.route = route
        self.teacher, self.distance = teacher, distance
        self.untuned = None if teacher is None else teacher.base.denoiser  # a copy moves along
        self.shared_steps, self.wide, self.timesteps, self.share = shared_steps, wide, timesteps, share
        self.average: Average | None = None
        self.last: Errors | None = None
        """Of the last batch."""
        self.seen = torch.zeros(len(examples), len(zones) + (wide is not None), dtype=torch.int64)
        """How many samples each expert was trained on, by subject; all experts on each of a shared step."""

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

    @property
    def shares(self) -> bool:
        """Whether all experts of a subject are one set in this step."""
        return self.global_step < self.shared_steps

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.share is not None and any(numbers.grad is None for numbers in self.numbers):
            raise UserError(
                f"trainer.devices={self.share.count} needs a gradient of every trained parameter, and some here "
                "have none; choose trainer.devices=1"
            )
        if self.shares:
            share_gradients_(self.denoiser.parameters(), len(self.zones))

    def kept(self) -> AbstractContextManager[None]:
        """Return a context in which the parameters are those to save: their EMA, if used."""
        return nullcontext() if self.average is None else self.average.in_place()

    def train_dataloader(self) -> object:
        return step_loader(self.recipe.batches)

    def training_step(self, number: int) -> Tensor:
        each = self.recipe.accumulate_grad_batches
        number = self.global_step * each + number % each  # of the batch in the run, also in one that goes on
        rows = self.drawn(number)
        self._count(rows.t)
        losses = self.loss_of(rows, self.share)
        self._show(losses)
        if self.distance is None:
            return losses.sum()
        copies = len(self.zones) if self.shares else 1  # a shared set is pulled once
        return losses.sum() + self.recipe.pull / copies * self.distance()

    def drawn(self, number: int) -> Rows:
        """Return the rows of all subjects of the run's batch of this number, one subject after another."""
        found = [self.rows(subject, number) for subject in range(len(self.examples))]
        conditioning = Conditioning.cat([rows.conditioning for rows in found])
        tensors = zip(*((rows.x_0, rows.noise, rows.t, rows.is_prior) for rows in found), strict=True)
        x_0, noise, t, is_prior = (torch.cat(parts) for parts in tensors)
        return Rows(x_0, conditioning, noise, t, is_prior)

    def loss_of(self, rows: Rows, share: Share | None = None) -> Float[Tensor, " subjects"]:
        """Return the loss of each subject's rows, of which this process computes its share."""
        mine = slice(None) if share is None else share.rows
        if self.route is not None:
            subjects = torch.arange(len(self.examples))[:, None]  # fake tensors refuse repeat_interleave
            self.route.choose(subjects.expand(-1, self.recipe.batch).flatten()[mine])
        own = rows[mine]
        t = sent(own.t, own.x_0.device)
        errors = self.errors(own.x_0, own.noise, t, own.conditioning, own.is_prior.bool(), mine)
        errors = errors if share is None else share.joined(errors)
        shares = zip(errors.split(self.recipe.batch), rows.is_prior.split(self.recipe.batch), strict=True)
        losses = torch.stack([with_prior_preservation(*share, self.recipe.prior_loss_weight) for share in shares])
        self.last = Errors(errors.detach(), rows.t, losses.detach())
        return losses

    def errors(
        self,
        x_0: Float[Tensor, "b c h w"],
        noise: Float[Tensor, "b c h w"],
        t: Int[Tensor, " b"],
        conditioning: Conditioning,
        prior: Bool[Tensor, " b"],
        mine: slice = slice(None),
    ) -> Float[Tensor, " b"]:
        """Return the weighted error of each row, by the recipe's target of class pictures and its loss on photos.

        `mine` are the places of these rows in the batch of all subjects.
        """
        recipe, places = self.recipe, range(self.recipe.batch * len(self.examples))[mine]
        count = sum(place % recipe.batch < recipe.train_batch_size for place in places)
        photos, others = prior.int().argsort(stable=True).tensor_split([count])  # no mask: a GPU would be waited for
        target = self.schedule.target(x_0, noise, t).float()
        before = torch.zeros(len(t), device=t.device)
        if self.teacher is not None and recipe.dco_beta is not None and len(photos):
            texts = Conditioning.cat([one.prior_text.expand(recipe.batch) for one in self.examples])[mine]
            predicted = self.teacher(x_0[photos], noise[photos], t[photos], texts.to(self.device)[photos])
            before[photos] = mean_square(predicted, target[photos])
        if self.teacher is not None and recipe.distills and len(others):
            target = target.clone()
            target[others] = self.teacher(x_0[others], noise[others], t[others], conditioning[others])
        errors = denoising_error(self.base, self.schedule, x_0, noise, t, conditioning, target)
        if recipe.loss_weight_max is not None:
            weight = self.schedule.bounded_inverse_weight(t, recipe.loss_weight_max)
            errors, before = errors * weight, before * weight
        if recipe.dco_beta is not None:
            errors = torch.where(prior, errors, consistency_loss(errors, before, recipe.dco_beta))
        return errors

    def rows(self, subject: int, number: int) -> Rows:
        """Return a subject's rows of the run's batch of this number, which do not depend on other subjects."""
        draw = generator_for(self.recipe.seed, number, "tune")
        x_0, conditioning, is_prior = self.batch(draw, subject)
        noise = sent(torch.randn(x_0.shape, generator=draw).to(x_0.dtype), x_0.device)
        return Rows(x_0, conditioning, noise, self.timesteps.draw(self.zones, len(x_0), draw), is_prior)

    def batch(self, draw: torch.Generator, subject: int = 0) -> tuple[Tensor, Conditioning, Tensor]:
        """Return latents, conditioning and class-picture flags of one subject for one step."""
        examples, recipe = self.examples[subject], self.recipe
        photos = torch.randint(len(examples.subject), (recipe.train_batch_size,), generator=draw)
        parts, texts = [examples.subject[photos]], [self.sentences[subject]().expand(recipe.train_batch_size)]
        if recipe.class_batch_size:
            others = torch.randint(len(examples.prior), (recipe.class_batch_size,), generator=draw)
            parts.append(examples.prior[others])
            texts.append(examples.class_prompts(others, draw))
        is_prior = torch.arange(recipe.batch) >= recipe.train_batch_size
        conditioning = Conditioning.cat([text.to(self.device) for text in texts])
        return sent(torch.cat(parts), self.device), conditioning, sent(is_prior.float(), self.device)

    def _count(self, t: Int[Tensor, " b"]) -> None:
        """Count the samples of a batch, the rows of one subject after those of another."""
        for seen, own in zip(self.seen, t.split(self.recipe.batch), strict=True):
            if self.wide is not None:
                seen[0] += ((own >= self.wide.start) & (own < self.wide.stop)).sum()
            counts = torch.bincount(self.zones.index(own) - 1, minlength=len(self.zones))
            seen[-len(self.zones) :] += len(own) if self.shares else counts

    def _show(self, losses: Tensor) -> None:
        """Show the mean loss; refuse a loss that is not finite. Trackers get it from `tuning.curves`."""
        if not losses.isfinite().all():  # the only value of a step that a GPU is waited for
            found = zip(self.examples, losses.tolist(), strict=True)
            one, loss = next((one, loss) for one, loss in found if not math.isfinite(loss))
            whose = f" of {one.name}" if len(losses) > 1 else ""
            raise UserError(f"the loss{whose} became {loss} in step {self.global_step + 1}; lower tuner.learning_rate")
        self.log("tune/loss", losses.mean(), logger=False)
