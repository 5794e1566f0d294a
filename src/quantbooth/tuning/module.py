"""Tuning: the DreamBooth objective on the timesteps of the strategy, whatever the tuner lets learn."""

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
from quantbooth.runtime.options import number, whole
from quantbooth.timesteps.zones import Zones
from quantbooth.tuning.averaging import Average
from quantbooth.tuning.encoding import EncodedOnce, Latents

__all__ = ["Examples", "OptimizerFactory", "Recipe", "TuningStage"]

LR_SCHEDULERS = ("cosine", "constant")
OptimizerFactory = Callable[[Iterable[dict[str, Any]]], Optimizer]
"""Parameter groups -> an optimizer; a group without `lr` takes the optimizer's own."""


@dataclass(frozen=True)
class Examples:
    """What a run learns from, of one subject.

    Attributes:
        subject: latents of the subject's photos; kept ones need no autoencoder any more.
        subject_text: the encoded sentence beside them, one row.
        prior: latents of the class's own pictures.
        prior_text: the encoded sentence beside those, one row.
        name: of the subject, where curves of several are told apart.
    """

    subject: Latents
    subject_text: Conditioning
    prior: Latents
    prior_text: Conditioning
    name: str = ""


@dataclass(frozen=True)
class Recipe:
    """How a run learns.

    Attributes:
        steps: optimizer steps.
        train_batch_size: photos of the subject in each.
        class_batch_size: class pictures in each; 0 is no prior preservation.
        prior_loss_weight: lambda of the DreamBooth loss.
        loss_weight_max: weight each error by min(1 / alpha_bar, loss_weight_max); None weights all alike.
        lr_scheduler: cosine lets the learning rate fall along half a cosine to 0 over the run; constant keeps it.
        seed: decides photos, noise and timesteps of every step.
        ema_decay: decay of the average over steps that is kept of the learned numbers; None keeps them as they are.
        rates: learning rates of kinds of numbers that have one of their own; the others take the optimizer's.

    Raises:
        UserError: naming the option that is not such a number.
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

    def __post_init__(self) -> None:
        whole("tuner.steps", self.steps, least=1)
        whole("tuner.train_batch_size", self.train_batch_size, least=1)
        whole("prior.class_batch_size", self.class_batch_size, least=0)
        number("prior.loss_weight", self.prior_loss_weight, least=0)
        whole("seed", self.seed, least=0, below=2**32)
        if self.loss_weight_max is not None:
            number("tuner.loss_weight_max", self.loss_weight_max, least=1)
        if self.lr_scheduler not in LR_SCHEDULERS:
            raise UserError(f"tuner.lr_scheduler must be one of {', '.join(LR_SCHEDULERS)}, got {self.lr_scheduler!r}")
        if self.ema_decay is not None:
            number("tuner.ema_decay", self.ema_decay, least=0, below=1)

    @property
    def batch(self) -> int:
        return self.train_batch_size + self.class_batch_size

    @property
    def samples_seen(self) -> int:
        return self.steps * self.batch

    def rate_at(self, step: int) -> float:
        """The fraction of the learning rate in force at a step."""
        if self.lr_scheduler == "constant":
            return 1.0
        return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * step / self.steps))))

    def groups(self, learning: Mapping[str, list[nn.Parameter]]) -> list[dict[str, Any]]:
        """What learns as parameter groups of an optimizer, one for each kind."""
        return [
            {"params": numbers, **({"lr": self.rates[kind]} if kind in self.rates else {})}
            for kind, numbers in learning.items()
        ]


@dataclass(frozen=True)
class Rows:
    """What one subject has in the batch of a step.

    Attributes:
        x_0: latents.
        conditioning: of each.
        noise: standard normal.
        t: training timesteps.
        is_prior: 1 for a class picture, 0 for a photo of the subject.
    """

    x_0: Float[Tensor, "b c h w"]
    conditioning: Conditioning
    noise: Float[Tensor, "b c h w"]
    t: Int[Tensor, " b"]
    is_prior: Float[Tensor, " b"]


class TuningStage(LightningModule):
    """One run: every sample of a batch has its own timestep, and with it its own scale set.

    Several subjects learn side by side in it: each has rows of its own in the batch, drawn as if it were alone, and
    sets of its own that only these rows reach. The loss is the sum of theirs, so every set gets the gradient it would
    get alone; optimizers that treat each number by itself, as AdamW does, then take the same steps.

    Args:
        base: its denoiser holds what learns, and is routed by timestep already; it may be alone.
        learning: what learns, by kind.
        examples: pictures and sentences of each subject.
        zones: where timesteps are drawn from.
        recipe: how it learns.
        optimizer: makes the optimizer.
        sentences: give each subject's sentence in each step; None are those of the examples.
        route: is told which subject a row belongs to; None where there is one.

    Raises:
        UserError: when the loss is no longer a finite number.
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
        self.sentences = nn.ModuleList(sentences or [EncodedOnce(one.subject_text) for one in examples])
        self.route = route
        self.average: Average | None = None

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_factory(self.recipe.groups(self.learning))
        if self.recipe.ema_decay is not None:
            average = self.average = Average(self.numbers, self.recipe.ema_decay)
            optimizer.register_step_post_hook(lambda *_: average.update_())
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.recipe.rate_at)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def numbers(self) -> list[nn.Parameter]:
        """Everything that learns."""
        return [numbers for kind in self.learning.values() for numbers in kind]

    def kept(self) -> AbstractContextManager[None]:
        """While open, the numbers in the model are those that are kept: their average where one is asked for."""
        return nullcontext() if self.average is None else self.average.in_place()

    def train_dataloader(self) -> object:
        return step_loader(self.recipe.steps)

    def training_step(self, _step: int) -> Tensor:
        subjects = range(len(self.examples))
        drawn = [self.rows(subject) for subject in subjects]
        conditioning = Conditioning.cat([rows.conditioning for rows in drawn])
        tensors = zip(*((rows.x_0, rows.noise, rows.t, rows.is_prior) for rows in drawn), strict=True)
        x_0, noise, t, is_prior = (torch.cat(parts) for parts in tensors)
        if self.route is not None:
            self.route.choose(torch.arange(len(subjects)).repeat_interleave(self.recipe.batch))
        errors = denoising_error(self.base, self.schedule, x_0, noise, t, conditioning)
        if self.recipe.loss_weight_max is not None:
            errors = errors * self.schedule.bounded_inverse_weight(t, self.recipe.loss_weight_max)
        shares = zip(errors.split(self.recipe.batch), is_prior.split(self.recipe.batch), strict=True)
        losses = torch.stack([with_prior_preservation(*share, self.recipe.prior_loss_weight) for share in shares])
        self._show(losses.detach())
        return losses.sum()

    def rows(self, subject: int) -> Rows:
        """What a subject has in this step's batch, the same whoever else is in it."""
        draw = generator_for(self.recipe.seed, self.global_step, "tune")
        x_0, conditioning, is_prior = self.batch(draw, subject)
        noise = torch.randn(x_0.shape, generator=draw).to(x_0)
        return Rows(x_0, conditioning, noise, self.zones.draw(len(x_0), draw).to(x_0.device), is_prior)

    def batch(self, draw: torch.Generator, subject: int = 0) -> tuple[Tensor, Conditioning, Tensor]:
        """Latents, what conditions them and which of them are class pictures, of one subject for one step."""
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

    def _show(self, losses: Tensor) -> None:
        """Log the mean over subjects, and of several each by its name; refuse what is no number."""
        for examples, loss in zip(self.examples, losses, strict=True):
            if not torch.isfinite(loss):
                whose = f" of {examples.name}" if len(losses) > 1 else ""
                raise UserError(
                    f"the loss{whose} became {loss.item()} in step {self.global_step + 1}; lower tuner.learning_rate"
                )
            if len(losses) > 1:
                self.log(f"tune/loss/{examples.name}", loss)
        self.log("tune/loss", losses.mean(), prog_bar=True)
