"""The plan of one damage measurement: what decides its artifact, what is asked, and which base is read for it."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from omegaconf import DictConfig

from quantbooth.artifacts.damage import KIND, Record
from quantbooth.artifacts.fingerprint import folder_fingerprint
from quantbooth.artifacts.item import Item
from quantbooth.artifacts.manifest import open_artifact
from quantbooth.artifacts.quantized_base import read_quantized_denoiser
from quantbooth.artifacts.store import Store
from quantbooth.calibration_plan import activation_bits, used
from quantbooth.config import build, plain
from quantbooth.data.options import place, whole, words
from quantbooth.data.questions import Questions, questions_of
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import load_base
from quantbooth.diffusion.sampling import Sampler
from quantbooth.errors import UserError
from quantbooth.plan import Plan
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.surgery import KINDS
from quantbooth.schema import content, trainer_content
from quantbooth.stages.damage import Measurement
from quantbooth.stages.evaluation import Scorer
from quantbooth.stages.progress import Bar
from quantbooth.timesteps.zones import Zones, zones_from_borders

__all__ = ["PLACES", "DamagePlan"]

LEAST = {"predictions": 2, "pictures": 2, "seed": 0, "batch": 1, "shown": 1}
PLACES = ("folder", "document")


class DamagePlan:
    """Everything the verb needs to know of its configuration; cheap objects are built here, before heavy work starts.

    `source` is the quantized base that is measured, None for quant=fp.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg, self.settings = cfg, plain(cfg)
        for option, least in LEAST.items():
            whole(f"damage.{option}", self.options[option], least)
        for option in PLACES:
            place(f"damage.{option}", self.options[option])
        for folder in words("damage.beside", self.options["beside"]):
            open_artifact(Path(folder), KIND)
        activation_bits(self.settings["quant"])
        self.store = Store(place("paths.store", self.settings["paths"]["store"]))
        self.base_folder = build(cfg.base.folder, Path)
        self.source = None if self.settings["quant"]["bits"] is None else Plan(cfg).quantized_base
        self.measurement = Measurement(
            questions=_questions(cfg),
            predictions=self.options["predictions"],
            pictures=self.options["pictures"],
            zones=_zones(self.base_settings),
            sampler=build(cfg.sampler, Sampler),
            scorer=build(cfg.scorer, Scorer),
            seed=self.options["seed"],
            batch=self.options["batch"],
            trainer=lambda what: build(cfg.trainer, Trainer, logger=False, callbacks=[Bar(what)]),
        )

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.settings["damage"])

    @property
    def base_settings(self) -> dict[str, Any]:
        return dict(self.settings["base"])

    @property
    def calibration(self) -> str:
        """How codes are found, in a word: minmax, mse, qdiffusion."""
        return str(self.settings["calibration"]["name"])

    @cached_property
    def reference(self) -> Item:
        """The measurement of the float base, which every other of the same questions is compared with."""
        identity = {
            "base": folder_fingerprint(self.base_folder),
            "questions": self.measurement.questions.fingerprint,
            "scorer": self.measurement.scorer.name,
            "sampler": content(self.settings, "sampler"),
            "zones": self.base_settings["zones"],
            **content(self.settings, "damage"),
            **trainer_content(self.settings),
        }
        return Item(self.store, KIND, f"{self.base_settings['name']}-fp", "quantbooth-damage", identity)

    @cached_property
    def item(self) -> Item:
        """The measurement of this setting."""
        if self.source is None:
            return self.reference
        identity = {"reference": self.reference.identity, "quantized_base": self.source.identity}
        parents = {"reference": self.reference, "quantized_base": self.source}
        label = f"{self.source.label}-{self.calibration}"
        return Item(self.store, KIND, label, "quantbooth-damage", identity, parents)

    def base(self, quantized: Path | None) -> Base:
        """The base, its denoiser quantized when the folder of a quantized base is given.

        Raises:
            UserError: when base.timesteps are not the base's.
        """
        denoiser = None if quantized is None else read_quantized_denoiser(quantized, self.base_folder)
        base = load_base(self.base_folder, self.base_settings["name"], denoiser)
        if base.timesteps != self.measurement.zones.timesteps:
            raise UserError(f"base.timesteps must be {base.timesteps}, got {self.measurement.zones.timesteps}")
        return base

    def record(self, base: Base, file_bytes: int, reference: str, quantized: Path | None) -> Record:
        """What was measured; `reference` is the fingerprint of the float measurement, `quantized` None for that one."""
        measurement, sampler = self.measurement, self.measurement.sampler
        return Record(
            base=self.base_settings["name"],
            zones={zone.name: [zone.start, zone.stop] for zone in measurement.zones.zones},
            layers=sum(1 for _ in quantized_layers(base.denoiser)),
            left_float=[name for name, layer in base.denoiser.named_modules() if type(layer) in KINDS],
            file_bytes=file_bytes,
            held_out=measurement.questions.name,
            seed=measurement.seed,
            sampler=f"{sampler.scheduler}, {sampler.steps} steps, guidance {sampler.guidance:g}",
            scorer=measurement.scorer.name,
            reference=reference,
            **self._quantization(quantized),
        )

    def _quantization(self, quantized: Path | None) -> dict[str, Any]:
        if quantized is None:
            return {"quant": "fp", "bits": None, "calibration": "", "options": {}, "source": "float base"}
        quant = self.settings["quant"]
        return {
            "quant": quant["name"],
            "bits": quant["bits"],
            "calibration": self.calibration,
            "options": _options(used(self.settings)),
            "source": quantized.name,
            **self._costs(),
        }

    def _costs(self) -> dict[str, float]:
        """Of the quantized base and of the calibration set it was made with."""
        seen = Plan(self.cfg).calibration_set
        items = [self.source, None if seen is None else seen.item]
        found = [item.manifest().measured for item in items if item is not None]
        return {
            "seconds": sum(cost["seconds"] for cost in found),
            "peak_memory_bytes": max(cost["peak_memory_bytes"] for cost in found),
        }


def _options(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """The calibration's own options by name, those of what it learns and of its set with what they belong to."""
    found = {name: value for name, value in calibration["search"].items() if name not in ("_target_", "grid")}
    for part in ("rounding", "activations", "set"):
        options = calibration.get(part) or {}
        found |= {f"{part}.{name}": value for name, value in options.items() if name != "_target_"}
    return found


def _questions(cfg: DictConfig) -> Questions:
    """The person's own sentences, else what the base is measured on."""
    settings = plain(cfg)["damage"]
    count, seed = max(settings["predictions"], settings["pictures"]), settings["seed"]
    if settings["prompts"] is not None:
        return questions_of(settings["prompts"], count, seed, option="damage.prompts")
    return build(cfg.base.held_out, Questions, count=count, seed=seed)


def _zones(base: dict[str, Any]) -> Zones:
    borders = base.get("zones")
    if not borders:
        raise UserError(f"base.zones must name at least one zone as name: [start, stop], got {borders!r}")
    return zones_from_borders(borders, base["timesteps"])
