"""The plan of one calibration: which of its settings count, and the artifact of the set of states it looks at."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from quantbooth.artifacts.fingerprint import folder_fingerprint
from quantbooth.artifacts.item import Item
from quantbooth.artifacts.store import Store
from quantbooth.config import build, plain
from quantbooth.data.options import place, whole
from quantbooth.data.questions import Questions, questions_of
from quantbooth.diffusion.calibration_sources import Asked, Source, batches, kept_places, source_of
from quantbooth.diffusion.sampling import Sampler
from quantbooth.errors import UserError
from quantbooth.quant.activations import ActivationBits
from quantbooth.quant.scale_search import ScaleSearch
from quantbooth.schema import content, trainer_content

__all__ = ["CalibrationPlan", "activation_bits", "precision_name", "quantization", "used"]

LEAST = {"count": 1, "timesteps": 1, "seed": 0, "batch": 1}
FEWEST, MOST = 2, 16
"""Bits of a simulated activation."""


PRECISIONS = {"32-true": "", "bf16-mixed": "bf16", "16-mixed": "fp16"}
"""What Lightning calls them, and what is added to the names of settings; half precision is of products alone."""


def activation_bits(quant: Mapping[str, Any]) -> ActivationBits | None:
    """Bits of activations; None where they stay float.

    Raises:
        UserError: for bits that are not offered, a softmax alone, float weights, or a name that does not tell.
    """
    inputs, softmax = quant["activations"], quant["softmax"]
    if inputs is None and softmax is None:
        return None
    if inputs is None:
        raise UserError(f"quant.softmax={softmax} needs quant.activations: choose quant=w4a8, or quant.softmax=null")
    for option, bits in (("quant.activations", inputs), ("quant.softmax", softmax)):
        if bits is not None:
            whole(option, bits, FEWEST, below=MOST + 1)
    if quant["bits"] is None:
        raise UserError(f"quant.activations={inputs} needs quantized weights: choose quant=w4a8 with quant.bits")
    if not str(quant["name"]).endswith(f"a{inputs}"):
        raise UserError(
            f"quant.name must end in a{inputs}, for tables to tell that activations are quantized, got "
            f"{quant['name']!r}: choose quant=w4a8 with quant.bits and quant.activations"
        )
    return ActivationBits(inputs, softmax)


def used(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the group `calibration` that count: none of activations where they stay float."""
    calibration = dict(settings["calibration"])
    if settings["quant"]["activations"] is None:
        del calibration["activations"]
        if calibration["rounding"] is None:
            del calibration["set"]
    return calibration


def quantization(settings: Mapping[str, Any], search: ScaleSearch) -> dict[str, Any]:
    """Return what decides the codes and scales of a quantized base."""
    calibration = content({"calibration": used(settings)}, "calibration")
    calibration["search"] = {"name": search.name, **calibration["search"]}
    learned = "rounding" in calibration or "activations" in calibration
    return {
        "quant": content(settings, "quant"),
        "calibration": calibration,
        **trainer_content(settings, training=learned),
    }


def precision_name(settings: Mapping[str, Any]) -> str:
    """Return what the precision of products adds to names, nothing for float32.

    Raises:
        UserError: for a precision that is not offered.
    """
    precision = str(settings["trainer"]["precision"])
    if precision not in PRECISIONS:
        raise UserError(f"trainer.precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return PRECISIONS[precision]


class CalibrationPlan:
    """What the denoiser will be run on while its quantization is learned; wrong options are refused here.

    Raises:
        UserError: for an option that is not offered, no prompts, or a source without its pictures.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg, self.settings = cfg, plain(cfg)
        for option, least in LEAST.items():
            whole(f"calibration.set.{option}", self.options[option], least)
        sampler = build(cfg.sampler, Sampler)
        self.source: Source = source_of(self.options["source"], sampler)
        kept_places(sampler.steps, self.count)
        self.source.check(self.asked[0])

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.settings["calibration"]["set"])

    @property
    def count(self) -> int:
        """Timesteps of each prompt."""
        return int(self.options["timesteps"])

    @cached_property
    def questions(self) -> Questions:
        """The person's own sentences, given or in a file, else what the base is measured on, with other seeds."""
        count, seed, prompts = self.options["count"], self.options["seed"], self.options["prompts"]
        if prompts is not None:
            given = _lines(Path(prompts).expanduser()) if isinstance(prompts, str) else prompts
            return questions_of(given, count, seed, option="calibration.set.prompts")
        return build(self.cfg.base.held_out, Questions, count=count, seed=seed)

    @property
    def asked(self) -> list[Asked]:
        """The sentences in batches."""
        each = self.questions.each
        whole_set = Asked(tuple(q.text for q in each), tuple(q.seed for q in each), self.questions.pictures)
        return list(batches(whole_set, self.options["batch"]))

    @cached_property
    def item(self) -> Item:
        """The set as an artifact."""
        base = self.settings["base"]
        identity = {
            "base": folder_fingerprint(build(self.cfg.base.folder, Path)),
            "questions": self.questions.fingerprint,
            "sampler": content(self.settings, "sampler"),
            **content(self.settings, "calibration.set"),
            **trainer_content(self.settings),
        }
        store = Store(place("paths.store", self.settings["paths"]["store"]))
        label = f"{base['name']}-{self.options['source']}"
        return Item(store, "calibration_set", label, "quantbooth-calibrate", identity)


def _lines(file: Path) -> list[str]:
    """The sentences of a text file, one a line; empty lines do not count."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "calibration.set.prompts must be a list of sentences such as [a dog,a red car], "
            f"or a text file with one a line, got {str(file)!r}: {error}"
        ) from error
    return [line.strip() for line in lines if line.strip()]
