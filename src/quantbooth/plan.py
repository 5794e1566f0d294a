"""The plan of one setting: what each step's artifact is decided by, where it is, and how models are read from it."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from quantbooth.artifacts.fingerprint import folder_fingerprint
from quantbooth.artifacts.image_set import Request, requests_for, unrelated_requests
from quantbooth.artifacts.item import Item, word
from quantbooth.artifacts.quantized_base import read_quantized_denoiser
from quantbooth.artifacts.store import Store
from quantbooth.artifacts.tuned import precision_of, read_snapshot, read_strategy
from quantbooth.calibration_plan import CalibrationPlan, activation_bits, precision_name, quantization
from quantbooth.config import build, plain
from quantbooth.data.options import flag, number, place, whole, words
from quantbooth.data.protocol import Protocol
from quantbooth.data.questions import Questions
from quantbooth.data.subjects import Subject
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.lora_files import add_loras_, lora_files
from quantbooth.diffusion.pretrained import empty_denoiser, load_base
from quantbooth.diffusion.router import route_
from quantbooth.diffusion.sampling import Sampler
from quantbooth.errors import UserError
from quantbooth.loading import load_tuned
from quantbooth.quant.grid import Grid
from quantbooth.quant.scale_search import ScaleSearch
from quantbooth.quant.selection import Selection
from quantbooth.schema import content, trainer_content
from quantbooth.stages.evaluation import Scorer
from quantbooth.stages.tuners import IdentifierTuner, Tuner
from quantbooth.stages.tuning import Recipe
from quantbooth.timesteps.strategies import Strategy

__all__ = ["Plan"]

RATES = {"shifts": "shift_learning_rate", "identifier": "identifier_learning_rate"}
"""Options of the tuner that are learning rates of one kind of numbers; the others learn at the optimizer's."""
UNRELATED_SEED = 4
"""Of the sentences that prior damage is looked at with."""
PLAIN = ("scales", "full")
"""Names of tuners that go without saying."""
USUAL = "baseline"
"""Name of the strategy that goes without saying beside adapters."""


class Plan:
    """Everything a verb needs to know of its configuration; cheap objects are built here, before heavy work starts."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.settings = plain(cfg)
        self.store = Store(place("paths.store", self.settings["paths"]["store"]))
        self.base_folder = build(cfg.base.folder, Path)
        self.strategy = build(cfg.strategy, Strategy)
        self.protocol = build(cfg.protocol, Protocol)
        self.sampler = build(cfg.sampler, Sampler)
        self.recipe = _recipe(self.settings)
        self.precision = precision_of(self.settings["tuner"]["saved_as"])
        self.steps = self.protocol.steps(last=self.recipe.steps)
        self.tuner = self._tuner()
        self.tuner.check(self.strategy, self.bits)
        for option in ("checkpointing", "cache", "flip", "together"):
            flag(f"tuner.{option}", self.settings["tuner"][option])
        self.activations = activation_bits(self.settings["quant"])
        self.loras = lora_files(self.settings["lora"])
        words("quant.include", self.settings["quant"]["include"])
        if self.settings["quant"]["exclude"] is not None:
            words("quant.exclude", self.settings["quant"]["exclude"])

    @property
    def bits(self) -> int | None:
        """Bits of a weight, None for float."""
        bits = self.settings["quant"]["bits"]
        return None if bits is None else Grid(bits).bits

    @property
    def quant_name(self) -> str:
        added = precision_name(self.settings)
        return "-".join([str(self.settings["quant"]["name"]), *([added] if added else [])])

    @property
    def drawn_weights(self) -> str:
        """The weights that pictures are drawn with, in tables: quant's name, and LoRA files of others (w4+style)."""
        return "+".join([self.quant_name, *(lora.name for lora in self.loras)])

    @property
    def method(self) -> str:
        """The name in tables: float for float DreamBooth, else the strategy; another tuner's name; the tuner's tag.

        Adapters are told by their tuner's name alone (lora, qlora), with the strategy before it (s2-qlora) where that
        is not the baseline.
        """
        name, tuner = "float" if self.bits is None else self.strategy.name, self.settings["tuner"]
        if self.tuner.kind == "adapters":
            name = "" if self.strategy.name == USUAL else self.strategy.name
        parts = [None if tuner["name"] in PLAIN else tuner["name"], tuner["tag"]]
        return "-".join([*([name] if name else []), *(word(str(part)) for part in parts if part is not None)])

    @cached_property
    def subject(self) -> Subject:
        subject = build(self.cfg.subject.pictures, Subject)
        side, expected = subject.photos.shape[-1], self.settings["base"]["resolution"]
        if side != expected:
            raise UserError(f"pictures of subject {subject.name} must be base.resolution = {expected} wide, got {side}")
        return subject

    @cached_property
    def scorer(self) -> Scorer:
        return build(self.cfg.scorer, Scorer)

    @cached_property
    def base_fingerprint(self) -> str:
        return folder_fingerprint(self.base_folder)

    @cached_property
    def quantized_base(self) -> Item | None:
        """None for quant=fp."""
        if self.bits is None:
            return None
        seen = self.calibration_set
        search = build(self.cfg.calibration.search, ScaleSearch)
        identity = {"base": self.base_fingerprint, **quantization(self.settings, search)}
        parents = {} if seen is None else {"calibration_set": seen.item}
        label = f"{self._base_name}-{self.quant_name}"
        identity |= {role: item.identity for role, item in parents.items()}
        return Item(self.store, "quantized_base", label, "quantbooth-calibrate", identity, parents)

    @cached_property
    def calibration_set(self) -> CalibrationPlan | None:
        """What the denoiser is run on; None where every weight goes to the nearest code and activations stay float."""
        seen = self.activations is not None or self.settings["calibration"]["rounding"] is not None
        return CalibrationPlan(self.cfg) if seen else None

    @cached_property
    def prior(self) -> Item:
        """The class's own pictures, drawn by the model that is to be tuned before it is."""
        prior = {key: self.settings["prior"][key] for key in ("count", "seed")}
        identity = {
            **self._untuned,
            "class": self.subject.class_text,
            "prior": prior,
            "sampler": content(self.settings, "sampler"),
        }
        label = f"prior-{self._base_name}-{self.quant_name}-{word(self.subject.class_word)}"
        return Item(self.store, "image_set", label, "quantbooth-tune", identity, self._bases)

    @cached_property
    def tuned(self) -> Item:
        identity = {**self._learned, "kept": self.steps[1:]}
        label = f"{word(self.subject.name)}-{self.method}-{self.quant_name}-seed{self.settings['seed']}"
        return Item(self.store, self.tuner.kind, label, "quantbooth-tune", identity, self._bases)

    def images(self, step: int) -> Item:
        """The pictures after a step; step 0 is the untuned base, the same for every strategy and seed."""
        shared = {
            "subject": self.subject.fingerprint,
            "protocol": self.protocol.choice,
            **({"unrelated": [request.text for request in self._unrelated]} if self.protocol.drift else {}),
            "sampler": content(self.settings, "sampler"),
            **({"lora": [lora.identity for lora in self.loras]} if self.loras else {}),
        }
        added = "".join(f"-with-{word(lora.name)}" for lora in self.loras)
        if step == 0:
            label = f"{word(self.subject.name)}-base-{self.quant_name}{added}"
            return Item(self.store, "image_set", label, "quantbooth-sample", self._untuned | shared, self._bases)
        identity = {"tuned": self._learned, "step": step, **shared}
        parents = {**self._bases, "tuned": self.tuned}
        label = f"{self.tuned.label}-step{step}{added}"
        return Item(self.store, "image_set", label, "quantbooth-sample", identity, parents)

    def scores(self, step: int) -> Item:
        images = self.images(step)
        method = self.method if step else "base"
        names = [self._base_name, self.drawn_weights, self.subject.name, method, str(self.protocol)]
        identity = {"images": images.identity, "scorer": self.scorer.name, "names": names}
        if self.protocol.of_several:
            identity["of_several"] = self.protocol.of_several
        parents = {"images": images, **({"untuned": self.images(0)} if self.protocol.drift and step else {})}
        return Item(self.store, "scores", images.label, "quantbooth-evaluate", identity, parents)

    def requests(self) -> list[Request]:
        return [*requests_for(self.subject, self.protocol.seeds, self.protocol.every), *self._unrelated]

    @cached_property
    def _unrelated(self) -> list[Request]:
        """Sentences that the base is measured on, but those about the subject's class."""
        if not (count := self.protocol.drift):
            return []
        questions = build(self.cfg.base.held_out, Questions, count=2 * count, seed=UNRELATED_SEED)
        return unrelated_requests(questions, self.subject, count, min(self.protocol.seeds))

    def untuned_base(self) -> Base:
        """The base, its denoiser quantized unless quant=fp."""
        denoiser = None
        if self.quantized_base is not None:
            denoiser = read_quantized_denoiser(self.quantized_base.require(), self.base_folder)
        base = load_base(self.base_folder, self._base_name, denoiser)
        if base.timesteps != self.strategy.trained.timesteps:
            raise UserError(f"base.timesteps must be {base.timesteps}, got {self.strategy.trained.timesteps}")
        return base

    def around(self, base: Base) -> Base:
        """The base with all its networks, those it lacks read anew."""
        whole = load_base(self.base_folder, base.name, empty_denoiser(self.base_folder)).with_denoiser(base.denoiser)
        return replace(whole, encoders=base.encoders) if base.encoders else whole

    def tuned_base(self, step: int) -> Base:
        """The base as tuned after a step, each timestep served by its set.

        Raises:
            UserError: when the step was not kept, or what was tuned belongs to another base.
        """
        base = self.untuned_base()
        if step:
            folder = self.tuned.require()
            self.require_same_base()
            selection, strategy = Selection(), read_strategy(folder)
            self.tuner.load_(base, read_snapshot(folder, step), strategy.sets, selection)
            route_(base, strategy.route, selection)
        return base

    def require_same_base(self) -> None:
        """Refuse, by UserError, what was tuned on another quantized base than that of these settings."""
        for role, item in self._bases.items():
            self.tuned.manifest().require_parent(role, item.manifest().fingerprint)

    def with_loras(self, base: Base) -> Base:
        """A base to draw with, changed in place: it has what the LoRA files of others hold too.

        Raises:
            UserError: naming the file that does not fit.
        """
        add_loras_(base, self.loras)
        return base

    def loaded_base(self, folder: Path) -> Base:
        """The base as some run left it, whatever its settings were.

        Raises:
            UserError: when the folder is no run, or belongs to another base.
        """
        return load_tuned(self.base_folder, self._base_name, folder)

    @property
    def _base_name(self) -> str:
        return str(self.settings["base"]["name"])

    @property
    def _bases(self) -> dict[str, Item]:
        return {} if self.quantized_base is None else {"quantized_base": self.quantized_base}

    @property
    def _untuned(self) -> dict[str, Any]:
        quantized = None if self.quantized_base is None else self.quantized_base.identity
        return {"base": self.base_fingerprint, "quantized_base": quantized, **trainer_content(self.settings)}

    @property
    def _learned(self) -> dict[str, Any]:
        """What decides what is learned; neither what is watched meanwhile nor which steps are kept does."""
        return {
            **self._untuned,
            "subject": self.subject.fingerprint,
            "strategy": self.strategy.describe(),
            "tuner": {"name": self.tuner.name, **content(self.settings, "tuner")},
            "prior_pictures": self.prior.identity if self.recipe.prior_batch else None,
            **{group: content(self.settings, group) for group in ("optimizer", "prior")},
            "seed": self.settings["seed"],
            **trainer_content(self.settings, training=True),
        }

    def _tuner(self) -> Tuner:
        tuner = build(self.cfg.tuner.learner, Tuner)
        if not flag("tuner.identifier", self.settings["tuner"]["identifier"]):
            return tuner
        return IdentifierTuner(tuner, self.subject.tuning_text, self.subject.class_text)


def _recipe(settings: Mapping[str, Any]) -> Recipe:
    tuner, prior = settings["tuner"], settings["prior"]
    whole("tuner.sample_every", tuner["sample_every"], least=0)
    rates = {kind: number(f"tuner.{key}", tuner[key], least=0) for kind, key in RATES.items() if key in tuner}
    whole("prior.seed", prior["seed"], least=0)
    whole("prior.count", prior["count"], least=1 if prior["batch"] else 0)
    return Recipe(
        steps=tuner["steps"],
        subject_batch=tuner["subject_batch"],
        prior_batch=prior["batch"],
        prior_weight=prior["weight"],
        weight_bound=tuner["weight_bound"],
        decay=tuner["decay"],
        seed=settings["seed"],
        average=tuner["average"],
        rates=rates,
    )
