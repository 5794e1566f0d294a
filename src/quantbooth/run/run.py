"""A run: the options of one configuration as objects, and the identity and location of its artifacts.

Each value of an option is valid (`runtime.options`); what does not fit together is refused when it is first used, and
`check` uses it before heavy work. Subjects are always a list, each with separate artifacts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch import Tensor

from quantbooth.data.protocol import Protocol
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.lora_files import LoraFile, add_loras_, lora_files
from quantbooth.diffusion.outline import outline
from quantbooth.diffusion.sampler import Sampler
from quantbooth.evaluation.scorer import Scorer
from quantbooth.quant.kernels import choice as kernels
from quantbooth.run.as_stored import require_own_layers
from quantbooth.run.base_options import base_folder_of, sampler_of
from quantbooth.run.calibration import PRECISIONS, Calibration
from quantbooth.run.callbacks import callbacks_of
from quantbooth.run.experts import require_decidable, sampled_timesteps
from quantbooth.run.options import (
    method_name,
    recipe_of,
    require_parts,
    strategy_of,
    timestep_sampler_of,
    tuner_of,
)
from quantbooth.run.stopping import stopping_of
from quantbooth.run.strength import Strength, strength_of
from quantbooth.run.subject_run import SubjectRun
from quantbooth.run.subjects import each_subject
from quantbooth.runtime.config import build, plain
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.lightning import Bar, Loop
from quantbooth.runtime.loggers import close, trackers_of
from quantbooth.schema import TRAINING_ONLY, trainer_content
from quantbooth.store.files import folder_fingerprint
from quantbooth.store.store import Artifact, Store
from quantbooth.timesteps.samplers import TimestepSampler
from quantbooth.timesteps.strategies import Strategy, decided
from quantbooth.tuning.gradients import read_gradients
from quantbooth.tuning.recipe import Recipe
from quantbooth.tuning.stopping import Stopping
from quantbooth.tuning.tuner import Tuner

__all__ = ["Run"]


class Run:
    """One configuration: its options as objects, and its artifacts.

    Args:
        cfg: the configuration.
        origin: the run whose calibration and tuning this one only uses, by other options of drawing and scoring.
    """

    def __init__(self, cfg: DictConfig, origin: "Run | None" = None) -> None:
        self.cfg, self.settings, self.origin = cfg, plain(cfg), origin
        self.store = Store(Path(self.settings["paths"]["store"]).expanduser())
        kernels.choose(self.settings["resources"]["kernels"])
        self._tracking, self._trackers = False, dict[str, list[Logger]]()

    def check(self, *parts: str) -> None:
        """Evaluate these properties now, so that a wrong option ends the run before any work."""
        for part in (*parts, "loop", "outline", "timesteps"):
            getattr(self, part)

    # Options as objects.

    @cached_property
    def base_folder(self) -> Path:
        return base_folder_of(self.cfg)

    @property
    def base_name(self) -> str:
        return str(self.settings["base"]["name"])

    @cached_property
    def base_fingerprint(self) -> str:
        return folder_fingerprint(self.base_folder)

    @cached_property
    def calibration(self) -> Calibration:
        """The calibration of the base; its bits are None for quant=fp and as_stored."""
        return self.origin.calibration if self.origin else Calibration(self.cfg, lambda: self.base_folder, self.store)

    @cached_property
    def plan(self) -> Strategy:
        """The strategy as its options say: borders that gradients decide are not decided yet.

        Raises:
            UserError: for borders that gradients cannot decide here.
        """
        plan = strategy_of(self.cfg, self.recipe)
        if plan.undecided is not None:
            require_decidable(self.calibration.quantized, self.settings["subjects"])
        return plan

    @cached_property
    def strategy(self) -> Strategy:
        """The strategy with all borders; those of the only subject where gradients decide."""
        gradients = None if self.plan.undecided is None else self.only.gradients
        if gradients is None:
            return self.plan
        return decided(self.plan, torch.tensor(read_gradients(gradients.require()).affinity, dtype=torch.float64))

    @cached_property
    def timestep_sampler(self) -> TimestepSampler:
        """The density of training timesteps."""
        return timestep_sampler_of(self.cfg, self.plan)

    @cached_property
    def protocol(self) -> Protocol:
        return build(self.cfg.protocol, Protocol)

    @cached_property
    def sampler(self) -> Sampler:
        return sampler_of(self.cfg, self.base_folder)

    @cached_property
    def outline(self) -> Base:
        """The base without its weights."""
        return outline(self.base_folder, self.base_name)

    @cached_property
    def timesteps(self) -> Tensor:
        """The timesteps of the sampler."""
        return sampled_timesteps(self.outline, self.sampler)

    @cached_property
    def scorer(self) -> Scorer:
        return build(self.cfg.scorer, Scorer)

    @cached_property
    def recipe(self) -> Recipe:
        return self.origin.recipe if self.origin else recipe_of(self.settings)

    @cached_property
    def stopping(self) -> Stopping | None:
        """What stops tuning before its last step; None where nothing does."""
        return stopping_of(self.settings)

    @property
    def processes(self) -> int:
        """How many processes share a training.

        Raises:
            UserError: when they cannot divide a batch.
        """
        devices = self.settings["trainer"]["devices"]
        return self.recipe.divided(devices) if isinstance(devices, int) else 1

    @cached_property
    def strength(self) -> Strength:
        return strength_of(self.settings)

    @cached_property
    def loras(self) -> tuple[LoraFile, ...]:
        """The added LoRA files, tried on the base without its weights."""
        found = lora_files(self.settings["lora"])
        if found:
            require_own_layers(self.settings, f"lora={self.settings['lora']}")
            add_loras_(outline(self.base_folder, self.base_name), found)
        return found

    @cached_property
    def tuner(self) -> Tuner:
        """The tuner, checked against strategy, bits and number of subjects."""
        tuner = tuner_of(self.cfg, [one.subject for one in self.subjects], self.recipe)
        tuner.check(self.plan, self.calibration.bits, self.calibration.stored)
        if any(self.settings["tuner"].get(key) for key in ("group_size", "norms", "biases")):
            require_parts(self.outline, tuner.kind, self.settings, self.calibration)
        return tuner

    @property
    def steps(self) -> list[int]:
        """The evaluated steps."""
        return self.protocol.steps(last=self.recipe.steps)

    @cached_property
    def subjects(self) -> tuple[SubjectRun, ...]:
        """The artifacts of each subject."""
        return tuple(SubjectRun(self, cfg) for cfg in each_subject(self.cfg))

    @property
    def only(self) -> SubjectRun:
        """The artifacts of the only subject.

        Raises:
            UserError: when there are several.
        """
        if len(self.subjects) > 1:
            raise UserError(f"this command takes one subject, got {len(self.subjects)}; sweep over them with -m")
        return self.subjects[0]

    # Names in tables.

    @property
    def weights_name(self) -> str:
        """The name of the weights for generation: quant's name, another precision, added LoRA files (w4+style)."""
        return "+".join([f"{self.calibration.name}{self.drawn_in}", *(lora.name for lora in self.loras)])

    @property
    def drawn_in(self) -> str:
        """The precision of pictures in names, where pictures of the tuning's own trainer would differ."""
        return f"-in-{PRECISIONS[self.settings['trainer']['precision']] or 'fp32'}" if self.drawn_with else ""

    @property
    def method(self) -> str:
        """The name of the method (see `method_name`)."""
        return method_name(self.tuner, self.plan, self.calibration.quantized, self.settings)

    @property
    def served_method(self) -> str:
        """The name of the method with the strength of generated pictures."""
        return self.method + self.strength.name

    # Artifacts.

    @property
    def quantized_base(self) -> Artifact | None:
        """The quantized base as an artifact; None for quant=fp and as_stored."""
        return self.calibration.quantized_base

    @property
    def parents(self) -> dict[str, Artifact]:
        """The quantized base by its role; empty for quant=fp."""
        return {} if self.quantized_base is None else {"quantized_base": self.quantized_base}

    @property
    def untuned(self) -> dict[str, Any]:
        """The identity of the untuned model, as it draws."""
        quantized = None if self.quantized_base is None else self.quantized_base.identity
        return {"base": self.base_fingerprint, "quantized_base": quantized, **trainer_content(self.settings)}

    @property
    def drawn_with(self) -> dict[str, Any]:
        """What a trainer decides in pictures, where that of the tuning decides otherwise; empty elsewhere."""
        own = trainer_content(self.settings)
        return {} if self.origin is None or own == trainer_content(self.origin.settings) else {"drawn_with": own}

    # Work.

    @property
    def callbacks(self) -> list[Callback]:
        """Lightning's callbacks that a tuning is given besides its own."""
        return callbacks_of(self.cfg, self.processes)

    def trainer(self, what: str, *, callbacks: Sequence[Callback] = (), tuning: bool = False, **more: Any) -> Trainer:
        """Return a trainer whose progress bar is labelled `what`; only `tuning` accumulates and clips gradients."""
        given = {"logger": False, **({} if tuning else TRAINING_ONLY), **more}
        return build(self.cfg.trainer, Trainer, callbacks=[Bar(what), *callbacks], **given)

    @cached_property
    def loop(self) -> Loop:
        """Return what plain loops run by, on the device and in the precision of the trainer.

        Raises:
            UserError: for chosen kernels that the device cannot run.
        """
        loop = Loop.like(self.trainer(""))
        kernels.require(loop.device)
        return loop

    def trackers(self, name: str, about: Callable[[], Mapping[str, Any]] | None = None, step: int = 0) -> list[Logger]:
        """Return the trackers of a training run, which goes on from a step; inside `tracking` those that are open."""
        if name in self._trackers:
            return self._trackers[name]
        made = trackers_of(self.cfg, name, about, step)
        if self._tracking and name:
            self._trackers[name] = made
        return made

    def release(self, trackers: list[Logger]) -> None:
        """Close trackers, unless the chain goes on to log to them."""
        if not any(trackers is each for each in self._trackers.values()):
            close(trackers)

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """Keep trackers open inside the block, so that curves and scores of a setting are one run."""
        self._tracking = True
        try:
            yield
        finally:
            self._tracking = False
            close([tracker for each in self._trackers.values() for tracker in each])
            self._trackers.clear()
