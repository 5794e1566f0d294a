"""Curves of a tuning beside its loss: errors by zone and timestep bin, a frozen batch, gains, rates, memory, time.

They are computed at the steps at which Lightning logs, where it waits for the device as well. Between these steps
nothing is computed and nothing is waited for, and no trained number depends on them.
"""

import time
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from quantbooth.runtime.loggers import log_values
from quantbooth.runtime.profiling import peak_memory
from quantbooth.runtime.progress import say
from quantbooth.store.store import slugify
from quantbooth.timesteps.zones import Zones, equal_zones
from quantbooth.tuning.module import TuningModule

__all__ = ["BINS", "Curves"]

BINS = 10
"""Equal timestep bins of the errors."""
FROZEN = -1
"""The number of the frozen batch; those of the steps begin at 0."""


class Curves(Callback):
    """Logs the values of a tuning at the steps at which Lightning logs; log_every_n_steps=0 logs none."""

    def __init__(self, module: TuningModule) -> None:
        self.module = module
        self._errors: list[Float[Tensor, " b"]] = []
        self._timesteps: list[Int[Tensor, " b"]] = []
        self._rates: dict[str, float] = {}
        self._began = self._logged = time.monotonic()
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = self._logged = time.monotonic()
        if trainer.loggers and _every(trainer) > trainer.max_steps:
            say(
                f"tuner.steps={trainer.max_steps} is less than trainer.log_every_n_steps={_every(trainer)}: no curves "
                "are logged; lower the latter for some"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if _logs(trainer):  # before the scheduler sets the rates of the next step
            groups = zip(self.module.learning, trainer.optimizers[0].param_groups, strict=True)
            self._rates = {kind: float(group["lr"]) for kind, group in groups}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *at: object) -> None:
        if not _every(trainer) or self.module.last is None:
            return
        last = self.module.last
        self._errors.append(last.errors)
        self._timesteps.append(last.t)
        if isinstance(at[-1], int) and (at[-1] + 1) % trainer.accumulate_grad_batches:
            return
        self._steps += 1
        if _logs(trainer):
            values = {**self._loss(last.losses), **dict(self._values())}
            log_values(trainer.loggers, values, trainer.fit_loop.epoch_loop._batches_that_stepped)

    def _values(self) -> Iterator[tuple[str, float]]:
        """Yield all values since they were logged last, by name."""
        yield from self._losses()
        yield "tune/loss/frozen", self._frozen()
        for kind, rate in self._rates.items():
            yield f"tune/learning_rate/{kind}", rate
        yield from self._gains()
        now = time.monotonic()
        yield "tune/peak_memory_bytes", float(peak_memory())
        yield "tune/seconds", now - self._began
        yield "tune/seconds_per_step", (now - self._logged) / self._steps
        self._logged, self._steps = now, 0

    def _loss(self, losses: Float[Tensor, " subjects"]) -> dict[str, float]:
        """Return the loss of this step, and that of each subject if there are several."""
        named = {"tune/loss": float(losses.mean())}
        if len(losses) > 1:
            named |= {f"tune/loss/{one.name}": float(x) for one, x in zip(self.module.examples, losses, strict=True)}
        return named

    def _losses(self) -> Iterator[tuple[str, float]]:
        """Yield the mean error of the photos in each zone and bin that had one; rows are one subject after another."""
        module, photos = self.module, self.module.recipe.train_batch_size
        errors = torch.stack(self._errors).cpu().view(-1, len(module.examples), module.recipe.batch)[..., :photos]
        timesteps = torch.stack(self._timesteps).view(-1, len(module.examples), module.recipe.batch)[..., :photos]
        self._errors.clear()
        self._timesteps.clear()
        count = module.zones.timesteps
        named = [(f"zone/{slugify(name)}", zones) for name, zones in self._experts()]
        bins = equal_zones(min(BINS, count), count).zones
        named += [(f"bin/{one.start:04d}-{one.stop:04d}", Zones((one,), count)) for one in bins]
        for place, start in enumerate(self._starts()):
            own, t = errors[:, place].flatten().double(), timesteps[:, place].flatten()
            for name, zones in named:
                inside = zones.index(t) > 0
                if inside.any():
                    yield f"{start}tune/loss/{name}", float(own[inside].mean())

    def _frozen(self) -> float:
        """Return the loss of the same photos, noise and timesteps at every step."""
        module, devices = self.module, [self.module.device] if self.module.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad(), module.trainer.precision_plugin.forward_context():
            return float(module.loss_of(module.drawn(FROZEN)).mean())

    def _gains(self) -> Iterator[tuple[str, float]]:
        """Yield the mean and the largest |gain - 1| of each set."""
        gains = self.module.learning.get("gains")
        if not gains:
            return
        with torch.no_grad():
            away = torch.cat([each.detach().flatten(1) for each in gains], dim=1).sub(1).abs()
            found = torch.stack([away.mean(dim=1), away.amax(dim=1)]).cpu()
        sets = [f"{start}gain/{slugify(name)}" for start in self._starts() for name, _ in self._experts()]
        for name, mean, largest in zip(sets, *found.tolist(), strict=True):
            yield f"{name}/mean", mean
            yield f"{name}/max", largest

    def _experts(self) -> list[tuple[str, Zones]]:
        """Return the name and the timesteps of each set of a subject; one set may have several intervals."""
        zones, wide = self.module.zones, self.module.wide
        first = [] if wide is None else [(wide.name, Zones((wide,), zones.timesteps))]
        return [*first, *((name, zones.named(name)) for name in zones.names)]

    def _starts(self) -> list[str]:
        """Return how the names of each subject's values begin."""
        names = [one.name for one in self.module.examples]
        return [f"{name}/" for name in names] if len(names) > 1 else [""]


def _every(trainer: Trainer) -> int:
    return int(getattr(trainer, "log_every_n_steps", 0))


def _logs(trainer: Trainer) -> bool:
    """Return whether Lightning logs this step."""
    return bool(_every(trainer) and trainer._logger_connector.should_update_logs)
