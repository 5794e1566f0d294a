"""The measurement of quantization error without tuning: its questions, and the artifacts of both bases."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from quantbooth.data.questions import Questions, questions_of, require_all
from quantbooth.degradation.files import KIND, Record
from quantbooth.degradation.measurement import Measurement
from quantbooth.diffusion.base import Base
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.surgery import KINDS
from quantbooth.run.as_stored import require_own_layers
from quantbooth.run.run import Run
from quantbooth.runtime.config import build
from quantbooth.runtime.errors import UserError
from quantbooth.schema import content, trainer_content
from quantbooth.store.manifest import open_artifact
from quantbooth.store.store import Artifact
from quantbooth.timesteps.zones import Zones, zones_from_borders

__all__ = ["Degradation"]

GRID = ("symmetric", "split_skips", "group_size", "act_bits", "softmax_bits")
"""Options of `quant` that a document shows."""


class Degradation:
    """One measurement of a run's base; what does not fit together is refused before heavy work starts."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.options: dict[str, Any] = dict(run.settings["degradation"])
        require_own_layers(run.settings, "quantbooth-degradation")
        run.check("quantized_base", "sampler", "scorer")
        self.measurement = Measurement(
            questions=_questions(run),
            predictions=self.options["predictions"],
            pictures=self.options["pictures"],
            zones=_zones(run.settings["base"]),
            sampler=run.sampler,
            scorer=run.scorer,
            seed=self.options["seed"],
            batch=self.options["batch"],
            trainer=run.trainer,
        )
        self._require_same_reference()

    def _require_same_reference(self) -> None:
        """Refuse measurements to compare with that were compared with another float one, before any work."""
        own, _ = self.run.store.place(KIND, self.reference.identity, self.reference.label)
        for folder in self.options["compare_with"]:
            manifest = open_artifact(Path(folder), KIND)
            if manifest.parents.get("reference", manifest.fingerprint) != own:
                raise UserError(
                    f"degradation.compare_with: {folder} was compared with another float measurement, of another base, "
                    "scorer, sampler or choice of questions; measure it again with these options"
                )

    @cached_property
    def reference(self) -> Artifact:
        """The measurement of the float base, the reference of all others on the same questions."""
        run = self.run
        identity = {
            "base": run.base_fingerprint,
            "questions": self.measurement.questions.fingerprint,
            "scorer": run.scorer.name,
            "sampler": content(run.settings, "sampler"),
            "zones": run.settings["base"]["zones"],
            **content(run.settings, "degradation"),
            **trainer_content(run.settings),
        }
        return Artifact(run.store, KIND, f"{run.base_name}-fp", "quantbooth-degradation", identity)

    @cached_property
    def artifact(self) -> Artifact:
        """The measurement of this run's base."""
        source = self.run.quantized_base
        if source is None:
            return self.reference
        identity = {"reference": self.reference.identity, "quantized_base": source.identity}
        parents = {"reference": self.reference, "quantized_base": source}
        label = f"{source.label}-{self.run.settings['calibration']['name']}"
        return Artifact(self.run.store, KIND, label, "quantbooth-degradation", identity, parents)

    def record(self, base: Base, file_bytes: int, reference: str, quantized: Path | None) -> Record:
        """Return the record of a measured base.

        `reference` is the fingerprint of the float measurement; `quantized` is None for the float base.
        """
        measurement, sampler = self.measurement, self.run.sampler
        return Record(
            base=self.run.base_name,
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
        quant = self.run.settings["quant"]
        return {
            "quant": quant["name"],
            "bits": quant["bits"],
            "calibration": str(self.run.settings["calibration"]["name"]),
            "options": _options(self.run.calibration.effective_options) | {f"quant.{key}": quant[key] for key in GRID},
            "source": quantized.name,
            **self._costs(),
        }

    def _costs(self) -> dict[str, float]:
        """Return the costs of making the quantized base and its calibration set."""
        set_spec = self.run.calibration.set_spec
        artifacts = [self.run.quantized_base, None if set_spec is None else set_spec.artifact]
        found = [artifact.manifest().measured for artifact in artifacts if artifact is not None]
        return {
            "seconds": sum(cost["seconds"] for cost in found),
            "peak_memory_bytes": max(cost["peak_memory_bytes"] for cost in found),
        }


def _options(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the calibration options by name; those of rounding, activations and set have a prefix."""
    found = {name: value for name, value in calibration["search"].items() if name not in ("_target_", "grid")}
    for part in ("rounding", "activations", "set"):
        options = calibration.get(part) or {}
        found |= {f"{part}.{name}": value for name, value in options.items() if name != "_target_"}
    return found


def _questions(run: Run) -> Questions:
    """Return the user's prompts, else the base's held-out prompts."""
    settings = run.settings["degradation"]
    count, seed = max(settings["predictions"], settings["pictures"]), settings["seed"]
    if settings["prompts"] is not None:
        for option in ("predictions", "pictures"):
            require_all(settings["prompts"], "degradation.prompts", settings[option], f"degradation.{option}")
        return questions_of(settings["prompts"], count, seed, option="degradation.prompts")
    return build(run.cfg.base.held_out, Questions, count=count, seed=seed)


def _zones(base: dict[str, Any]) -> Zones:
    borders = base.get("zones")
    if not borders:
        raise UserError(f"base.zones must name at least one zone as name: [start, stop], got {borders!r}")
    return zones_from_borders(borders, base["timesteps"])
