"""A run: one setting's options as objects, what decides each step's artifact, and where that is.

Nothing is validated before it is used, so a command refuses only what it needs; `check` asks for it before heavy work.
Subjects are always a list, each with artifacts of its own.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from quantbooth.data.protocol import Protocol
from quantbooth.data.questions import Questions
from quantbooth.data.subjects import Subject
from quantbooth.diffusion.lora_files import LoraFile, lora_files
from quantbooth.diffusion.sampler import Sampler
from quantbooth.evaluation.scorer import Scorer
from quantbooth.run.calibration import Calibration
from quantbooth.run.options import check_resources, recipe_of, require_known
from quantbooth.run.subjects import each_subject
from quantbooth.runtime.config import build, plain
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.lightning import Bar
from quantbooth.runtime.options import flag, place
from quantbooth.sampling.image_set import Request, requests_for, unrelated_requests
from quantbooth.schema import content, trainer_content
from quantbooth.store.files import folder_fingerprint
from quantbooth.store.store import Item, Store, word
from quantbooth.timesteps.strategies import Strategy
from quantbooth.tuning.module import Recipe
from quantbooth.tuning.tuners import IdentifierTuner, Tuner

__all__ = ["Run", "SubjectRun"]

PLAIN = ("scales", "full")
"""Names of tuners that a method's name leaves out."""
UNRELATED_SEED = 4
"""Of the sentences that prior damage is looked at with."""
USUAL = "baseline"
"""Name of the strategy that an adapter's name leaves out."""


class SubjectRun:
    """The artifacts of one subject of a run.

    Args:
        run: its settings.
        cfg: the configuration of a run of this subject alone.

    Raises:
        UserError: when its pictures are not of the base's size.
    """

    def __init__(self, run: "Run", cfg: DictConfig) -> None:
        self.run, self.settings = run, plain(cfg)
        self.subject = build(cfg.subject.pictures, Subject)
        side, expected = self.subject.photos.shape[-1], self.settings["base"]["resolution"]
        if side != expected:
            raise UserError(
                f"pictures of subject {self.subject.name} must be base.resolution = {expected} wide, got {side}"
            )

    @property
    def name(self) -> str:
        return self.subject.name

    @cached_property
    def prior(self) -> Item:
        """The class's own pictures, drawn by the model that is to be tuned before it is."""
        run = self.run
        identity = {
            **run.untuned,
            "class": self.subject.class_text,
            "prior": {key: self.settings["prior"][key] for key in ("num_class_images", "seed")},
            "sampler": content(self.settings, "sampler"),
        }
        label = f"prior-{run.base_name}-{run.calibration.name}-{word(self.subject.class_word)}"
        return Item(run.store, "image_set", label, "quantbooth-tune", identity, run.parents)

    @cached_property
    def tuned(self) -> Item:
        """What the subject taught."""
        run = self.run
        identity = {**self._learned, "kept": run.steps[1:]}
        label = f"{word(self.name)}-{run.method}-{run.calibration.name}-seed{self.settings['seed']}"
        return Item(run.store, run.tuner.kind, label, "quantbooth-tune", identity, run.parents)

    def images(self, step: int) -> Item:
        """The pictures after a step; step 0 is the untuned base, the same for every strategy and seed."""
        run = self.run
        shared = {
            "subject": self.subject.fingerprint,
            "protocol": run.protocol.choice,
            **({"unrelated": [request.text for request in self._unrelated]} if run.protocol.prior_prompts else {}),
            "sampler": content(self.settings, "sampler"),
            **({"lora": [lora.identity for lora in run.loras]} if run.loras else {}),
        }
        added = "".join(f"-with-{word(lora.name)}" for lora in run.loras)
        if step == 0:
            label = f"{word(self.name)}-base-{run.calibration.name}{added}"
            return Item(run.store, "image_set", label, "quantbooth-sample", run.untuned | shared, run.parents)
        identity = {"tuned": self._learned, "step": step, **shared}
        label = f"{self.tuned.label}-step{step}{added}"
        parents = {**run.parents, "tuned": self.tuned}
        return Item(run.store, "image_set", label, "quantbooth-sample", identity, parents)

    def scores(self, step: int) -> Item:
        """The scores of the pictures after a step."""
        run, images = self.run, self.images(step)
        method = run.method if step else "base"
        names = [run.base_name, run.drawn_weights, self.name, method, str(run.protocol)]
        identity = {"images": images.identity, "scorer": run.scorer.name, "names": names}
        if run.protocol.of_several:
            identity["of_several"] = run.protocol.of_several
        parents = {"images": images, **({"untuned": self.images(0)} if run.protocol.prior_prompts and step else {})}
        return Item(run.store, "scores", images.label, "quantbooth-evaluate", identity, parents)

    def requests(self) -> list[Request]:
        """The pictures that are asked for after each step."""
        protocol = self.run.protocol
        return [*requests_for(self.subject, protocol.seeds, protocol.prompt_stride), *self._unrelated]

    @cached_property
    def _unrelated(self) -> list[Request]:
        """Sentences that the base is measured on, but those about the subject's class."""
        if not (count := self.run.protocol.prior_prompts):
            return []
        questions = build(self.run.cfg.base.held_out, Questions, count=2 * count, seed=UNRELATED_SEED)
        return unrelated_requests(questions, self.subject, count, min(self.run.protocol.seeds))

    @cached_property
    def _learned(self) -> dict[str, Any]:
        """What decides what is learned; neither what is watched meanwhile nor which steps are kept does."""
        run, settings = self.run, self.settings
        return {
            **run.untuned,
            "subject": self.subject.fingerprint,
            "strategy": run.strategy.describe(),
            "tuner": {"name": run.tuner.name, **content(settings, "tuner")},
            "prior_pictures": self.prior.identity if run.recipe.class_batch_size else None,
            **{group: content(settings, group) for group in ("optimizer", "prior", "resources")},
            "seed": settings["seed"],
            **trainer_content(settings, training=True),
        }


class Run:
    """One setting: its options as objects, its artifacts."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg, self.settings = cfg, plain(cfg)
        require_known(self.settings)
        self.store = Store(place("paths.store", self.settings["paths"]["store"]))

    def check(self, *parts: str) -> None:
        """Evaluate these properties now, so that a mistake ends the run before any work."""
        for part in parts:
            getattr(self, part)

    # Options as objects.

    @cached_property
    def base_folder(self) -> Path:
        return build(self.cfg.base.folder, Path)

    @property
    def base_name(self) -> str:
        return str(self.settings["base"]["name"])

    @cached_property
    def base_fingerprint(self) -> str:
        return folder_fingerprint(self.base_folder)

    @cached_property
    def calibration(self) -> Calibration:
        """How the base is quantized; bits None for quant=fp."""
        return Calibration(self.cfg, lambda: self.base_folder, self.store)

    @cached_property
    def strategy(self) -> Strategy:
        strategy, expected = build(self.cfg.strategy, Strategy), self.settings["base"]["timesteps"]
        if strategy.trained.timesteps != expected:
            raise UserError(f"strategy.timesteps must be base.timesteps = {expected}, got {strategy.trained.timesteps}")
        return strategy

    @cached_property
    def protocol(self) -> Protocol:
        return build(self.cfg.protocol, Protocol)

    @cached_property
    def sampler(self) -> Sampler:
        return build(self.cfg.sampler, Sampler)

    @cached_property
    def scorer(self) -> Scorer:
        return build(self.cfg.scorer, Scorer)

    @cached_property
    def recipe(self) -> Recipe:
        return recipe_of(self.settings)

    @cached_property
    def loras(self) -> tuple[LoraFile, ...]:
        return lora_files(self.settings["lora"])

    @cached_property
    def tuner(self) -> Tuner:
        """What learns, able to do what strategy, bits and number of subjects ask."""
        tuner = build(self.cfg.tuner.learner, Tuner)
        check_resources(self.settings)
        if flag("tuner.identifier", self.settings["tuner"]["identifier"]):
            first = self.subjects[0].subject
            tuner = IdentifierTuner(tuner, first.tuning_text, first.class_text)
        tuner.check(self.strategy, self.calibration.bits)
        if len(self.subjects) > 1 and not tuner.by_sample:
            raise UserError(
                "subjects=[a,b] shares a run by scales or adapters, each subject with sets of its own; choose "
                "tuner=scales, lora or qlora with tuner.identifier=false, or -m subject=a,b for a run each"
            )
        return tuner

    @property
    def steps(self) -> list[int]:
        """Steps that are looked at."""
        return self.protocol.steps(last=self.recipe.steps)

    @cached_property
    def subjects(self) -> tuple[SubjectRun, ...]:
        """What belongs to each subject."""
        return tuple(SubjectRun(self, cfg) for cfg in each_subject(self.cfg))

    @property
    def only(self) -> SubjectRun:
        """What belongs to the only subject.

        Raises:
            UserError: when there are several.
        """
        if len(self.subjects) > 1:
            raise UserError(f"this command takes one subject, got {len(self.subjects)}; sweep over them with -m")
        return self.subjects[0]

    # Names in tables.

    @property
    def drawn_weights(self) -> str:
        """The weights that pictures are drawn with: quant's name, and LoRA files of others (w4+style)."""
        return "+".join([self.calibration.name, *(lora.name for lora in self.loras)])

    @property
    def method(self) -> str:
        """The name in tables: float for float DreamBooth, else the strategy; another tuner's name; the tuner's tag.

        Adapters are told by their tuner's name alone (lora, qlora), with the strategy before it (s2-qlora) where that
        is not the baseline.
        """
        name, tuner = "float" if self.calibration.bits is None else self.strategy.name, self.settings["tuner"]
        if self.tuner.kind == "adapters":
            name = "" if self.strategy.name == USUAL else self.strategy.name
        parts = [None if tuner["name"] in PLAIN else tuner["name"], self.settings["tag"]]
        return "-".join([*([name] if name else []), *(word(str(part)) for part in parts if part is not None)])

    # Artifacts.

    @property
    def quantized_base(self) -> Item | None:
        """None for quant=fp."""
        return self.calibration.quantized_base

    @property
    def parents(self) -> dict[str, Item]:
        """The quantized base by its role, where there is one."""
        return {} if self.quantized_base is None else {"quantized_base": self.quantized_base}

    @property
    def untuned(self) -> dict[str, Any]:
        """What decides the untuned model."""
        quantized = None if self.quantized_base is None else self.quantized_base.identity
        return {"base": self.base_fingerprint, "quantized_base": quantized, **trainer_content(self.settings)}

    # Work.

    def trainer(self, what: str, *, shared: bool = False, callbacks: Sequence[Callback] = (), **more: Any) -> Trainer:
        """Return a trainer whose bar says what is going on; `shared` work may be divided by processes."""
        given = {"logger": False, **({"shared": True} if shared else {}), **more}
        return build(self.cfg.trainer, Trainer, callbacks=[Bar(what), *callbacks], **given)

    def logger(self, run: str) -> Logger:
        return build(self.cfg.logger, Logger, run=run)
