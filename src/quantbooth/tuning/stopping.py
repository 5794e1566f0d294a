"""Stopping before the last step: by the variance of the loss on one frozen batch, and by a drop of prompt fidelity.

    L_0, L_1, ...     loss on the same photos, noises and timesteps, before tuning and after every `every` steps
    share_n = var(L_(n-w+1) .. L_n) / var(L_0 .. L_(w-1)),    n >= w
    stop where share_n < variance

The loss of a step is too noisy to show that a subject is learned; on a frozen batch it is a function of the parameters
alone (DVAR, Voronov et al. 2023, arXiv 2302.04841, which compares with the variance of all values so far). The guard
stops where prompt fidelity F_0 - F_n > prompt_drop, F of pictures of held-out prompts from the same noise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.objective import denoising_error
from quantbooth.runtime.draws import generator_for
from quantbooth.runtime.progress import say
from quantbooth.tuning.callbacks import Snapshots
from quantbooth.tuning.module import TuningModule

__all__ = ["AT_THE_END", "BY_LOSS", "BY_PROMPTS", "Stopping", "Stops", "variance_share"]

ROWS = 8
"""Rows of the frozen batch."""
PURPOSE = "stopping"
AT_THE_END, BY_LOSS, BY_PROMPTS = range(3)
"""Why a run ended: its last step, its loss no longer moves, prompt fidelity dropped."""


@dataclass(frozen=True)
class Stopping:
    """When a run ends before its last step.

    Attributes:
        every: steps between two looks.
        window: losses of a variance.
        variance: the share of the first window's variance; 0 does not stop by the loss.
        prompt_drop: the fall of prompt fidelity from the untuned base; None has no guard.
    """

    every: int
    window: int
    variance: float
    prompt_drop: float | None


def variance_share(losses: Sequence[float], window: int) -> float | None:
    """Return the variance of the last `window` losses over that of the first; None before one more is there.

    None too where the first did not vary, which no share compares with.
    """
    if len(losses) <= window:
        return None
    last, first = (float(torch.tensor(part, dtype=torch.float64).var()) for part in (losses[-window:], losses[:window]))
    return last / first if first > 0 else None


class Stops(Callback):
    """Looks at a run before its first step and after every `every` steps, and ends it; training is not changed.

    Snapshots that were wanted of later steps get the parameters of the step in which it ends.

    Args:
        stopping: when to stop.
        module: the training of one subject.
        snapshots: of the run.
        fidelity: returns the prompt fidelity as the parameters are now, where there is a guard.
        found: what `numbers` had at the checkpoint from which the run goes on.
    """

    name = "stopping"

    def __init__(
        self,
        stopping: Stopping,
        module: TuningModule,
        snapshots: Snapshots,
        fidelity: Callable[[], float] | None = None,
        found: Mapping[str, list[float]] | None = None,
    ) -> None:
        self.stopping, self.module, self.snapshots, self.fidelity = stopping, module, snapshots, fidelity
        self.losses = [] if found is None else list(found["losses"])
        self.fidelities = [] if found is None else list(found["fidelities"])
        self.at, self.by, self.why = module.recipe.steps, AT_THE_END, "its last step"
        self._batch: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def numbers(self) -> dict[str, list[float]]:
        """What a run that goes on needs."""
        return {"losses": self.losses, "fidelities": self.fidelities}

    @property
    def ended(self) -> dict[str, Any]:
        """Where and why the run ended, and what was seen on the way."""
        return {"at": self.at, "by": self.by, "why": self.why, **self.numbers}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.losses:
            self._look(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *at: Any) -> None:
        step, ends = trainer.global_step, (at[-1] + 1) % trainer.accumulate_grad_batches == 0
        if not ends or step % self.stopping.every or step >= self.at:
            return
        self._look(trainer)
        found = trainer.strategy.broadcast(self._reason() if trainer.is_global_zero else None)
        if found is not None:
            self.at, (self.by, self.why) = step, found
            trainer.should_stop = True
            if trainer.is_global_zero:
                say(f"stopped at step {step} of {self.module.recipe.steps}: {self.why}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        with self.snapshots.kept():
            for step in sorted(step for step in self.snapshots.steps if step > self.at):
                self.snapshots.keep(step, self.snapshots.tuner.state(self.snapshots.base))

    @torch.no_grad()
    def _look(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return  # the first process decides for all
        with self.snapshots.kept(), trainer.precision_plugin.forward_context():
            self.losses.append(self.loss())
            if self.fidelity is not None:
                self.fidelities.append(self.fidelity())

    def loss(self) -> float:
        """Return the loss on the frozen batch, weighted as in training."""
        module, (x_0, noise, t) = self.module, self._frozen()
        if module.route is not None:
            module.route.choose(torch.zeros(ROWS, dtype=torch.int64))
        text = Conditioning.cat([module.sentences[0]().expand(ROWS).to(module.device)])
        errors = denoising_error(module.base, module.schedule, x_0, noise, t, text)
        if module.recipe.loss_weight_max is not None:
            errors = errors * module.schedule.bounded_inverse_weight(t, module.recipe.loss_weight_max)
        return float(errors.double().mean())

    def _frozen(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return photos, noises and timesteps, which the seed decides."""
        if self._batch is None:
            module, photos = self.module, self.module.examples[0].subject
            draw = generator_for(module.recipe.seed, 0, PURPOSE)
            x_0 = photos[torch.arange(ROWS) % len(photos)].to(module.device)
            noise = torch.randn(x_0.shape, generator=draw).to(x_0)
            self._batch = x_0, noise, module.timesteps.draw(module.zones, ROWS, draw).to(module.device)
        return self._batch

    def _reason(self) -> tuple[int, str] | None:
        """Return by what, and in which words, the run ends here; None where it goes on."""
        asked, share = self.stopping, variance_share(self.losses, self.stopping.window)
        if share is not None and share < asked.variance:
            return BY_LOSS, f"the frozen batch's loss varies by {share:.3g} of its first variance, < {asked.variance:g}"
        drop = self.fidelities[0] - self.fidelities[-1] if self.fidelities else 0.0
        if asked.prompt_drop is not None and drop > asked.prompt_drop:
            return BY_PROMPTS, f"prompt fidelity fell by {drop:.3g}, more than {asked.prompt_drop:g}"
        return None
