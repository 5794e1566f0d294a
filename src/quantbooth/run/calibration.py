"""The calibration of a run: how its base is quantized, on which calibration set, and the artifacts of both."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from quantbooth.calibration.adaround import AdaRoundConfig
from quantbooth.calibration.lsq import LSQConfig
from quantbooth.calibration.quantized_attention import require_attentions
from quantbooth.calibration.sources import PromptBatch, Source, batches, kept_steps, source_of
from quantbooth.data.questions import Questions, questions_of, require_all
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.registry import family_in
from quantbooth.diffusion.pretrained import empty_denoiser
from quantbooth.quant.activations import ActivationBits
from quantbooth.quant.observers import ScaleSearch
from quantbooth.quant.surgery import NO_SPLITS, Splits, group_splits, matching
from quantbooth.run.as_stored import is_stored
from quantbooth.run.base_options import sampler_of
from quantbooth.runtime.config import build, plain
from quantbooth.runtime.errors import UserError
from quantbooth.schema import content, trainer_content
from quantbooth.store.files import folder_fingerprint
from quantbooth.store.store import Artifact, Store

__all__ = ["PRECISIONS", "Calibration", "CalibrationSetSpec"]

PRECISIONS = {"32-true": "", "bf16-mixed": "bf16", "16-mixed": "fp16"}
"""Lightning's names, and the suffix in names of settings; half precision applies to matrix products only."""


@dataclass(frozen=True)
class CalibrationSetSpec:
    """The calibration set: the inputs of the denoiser while its quantization is learned, and their artifact.

    Attributes:
        source: the source of (x_t, t).
        questions: the prompts.
        prompt_batches: the prompts in batches.
        count: timesteps of each prompt.
        artifact: the set as an artifact.
    """

    source: Source
    questions: Questions
    prompt_batches: tuple[PromptBatch, ...]
    count: int
    artifact: Artifact


class Calibration:
    """The config groups `quant` and `calibration` as objects, each built when it is first used.

    Args:
        cfg: the configuration of the run.
        folder: returns the base's folder; a large base is found and read only when an artifact needs its name.
        store: of the artifacts.
    """

    def __init__(self, cfg: DictConfig, folder: Callable[[], Path], store: Store) -> None:
        self.cfg, self.settings, self.folder, self.store = cfg, plain(cfg), folder, store

    @cached_property
    def bits(self) -> int | None:
        """Bits of a weight, None for float and as_stored."""
        bits: int | None = self.settings["quant"]["bits"]
        return bits

    @cached_property
    def stored(self) -> bool:
        """Whether layers are those of another package, with the codes that it stored.

        Raises:
            UserError: for options of quantization or calibration, which would have no effect.
        """
        return is_stored(self.settings)

    @property
    def quantized(self) -> bool:
        """Whether layers have codes, our own or as they are stored."""
        return self.bits is not None or self.stored

    @cached_property
    def name(self) -> str:
        """The name in tables: quant's name, and the precision where it is not float32 (w4-bf16)."""
        added = PRECISIONS[self.settings["trainer"]["precision"]]
        return "-".join([str(self.settings["quant"]["name"]), *([added] if added else [])])

    @cached_property
    def layers(self) -> tuple[list[str], list[str]]:
        """Patterns of the layers to quantize, and of those to leave float.

        Where quant.exclude is null, the family's `float_layers` stay float.

        Raises:
            UserError: for a layer that cannot be quantized.
        """
        quant, family = self.settings["quant"], family_in(self.folder())
        exclude = quant["exclude"]
        if exclude is None:
            exclude = list(family.float_layers)
        elif family.rowless_layers:
            family.require_rows(matching(empty_denoiser(self.folder()), quant["include"], exclude), "quant.exclude")
        return quant["include"], exclude

    @cached_property
    def group_size(self) -> int | None:
        """Inputs that share a scale; None: all inputs of an output channel.

        Raises:
            UserError: for float weights, and where something else decides which inputs share a scale.
        """
        quant = self.settings["quant"]
        size: int | None = quant.get("group_size")  # options of earlier versions have none
        if size is None:
            return None
        if quant["bits"] is None:
            raise UserError(f"quant.group_size={size} has no effect on quant={quant['name']}; choose quant=w4")
        if quant["split_skips"] or quant["act_bits"] is not None:
            other = "quant.split_skips=true" if quant["split_skips"] else f"quant.act_bits={quant['act_bits']}"
            raise UserError(f"quant.group_size={size} does not go with {other}; leave one of them out")
        return size

    def splits(self, base: Base, names: Sequence[str]) -> Splits:
        """Return which of these layers have a scale per part of their inputs.

        Raises:
            UserError: for skip splits of a denoiser without skip connections.
        """
        if self.group_size is not None:
            return group_splits(base.denoiser, names, self.group_size)
        return base.skip_splits() if self.settings["quant"]["split_skips"] else NO_SPLITS

    @cached_property
    def activations(self) -> ActivationBits | None:
        """Bits of activations; None where they stay float.

        Raises:
            UserError: for softmax bits alone, float weights, a name without them, or attention of another kind.
        """
        quant = self.settings["quant"]
        inputs, softmax = quant["act_bits"], quant["softmax_bits"]
        if inputs is None and softmax is None:
            return None
        if inputs is None:
            raise UserError(
                f"quant.softmax_bits={softmax} needs quant.act_bits: choose quant=w4a8, or quant.softmax_bits=null"
            )
        if quant["bits"] is None:
            raise UserError(f"quant.act_bits={inputs} needs quantized weights: choose quant=w4a8 with quant.bits")
        if not str(quant["name"]).endswith(f"a{inputs}"):
            raise UserError(
                f"quant.name must end in a{inputs}, so that tables show quantized activations, got "
                f"{quant['name']!r}: choose quant=w4a8 with quant.bits and quant.act_bits"
            )
        require_attentions(empty_denoiser(self.folder()))
        return ActivationBits(inputs, softmax)

    @cached_property
    def search(self) -> ScaleSearch:
        return build(self.cfg.calibration.search, ScaleSearch)

    @cached_property
    def rounding(self) -> AdaRoundConfig | None:
        """The AdaRound options; None for rounding to the nearest code.

        Raises:
            UserError: for a base whose blocks are not called alike.
        """
        if self.cfg.calibration.rounding is None:
            return None
        if not family_in(self.folder()).same_shapes:
            raise UserError(
                "calibration.rounding must be null for this base, whose blocks are called with prompts of several "
                "lengths; choose calibration=mse"
            )
        return build(self.cfg.calibration.rounding, AdaRoundConfig)

    @cached_property
    def lsq(self) -> LSQConfig | None:
        """The options for learning activation scales; None where activations stay float."""
        return None if self.activations is None else build(self.cfg.calibration.activations, LSQConfig)

    @property
    def effective_options(self) -> dict[str, Any]:
        """The options of the group `calibration` that have an effect: none of activations where they stay float."""
        calibration = dict(self.settings["calibration"])
        if self.activations is None:
            del calibration["activations"]
            if calibration["rounding"] is None:
                del calibration["set"]
        return calibration

    @cached_property
    def set_spec(self) -> CalibrationSetSpec | None:
        """The calibration set; None for rounding to the nearest code with float activations.

        Raises:
            UserError: for more timesteps than the sampler has, no prompts, or a source without its pictures.
        """
        if "set" not in self.effective_options:
            return None
        options = self.settings["calibration"]["set"]
        sampler = sampler_of(self.cfg, self.folder())
        source, questions = source_of(options["source"], sampler), self._questions(options)
        each = questions.each
        whole_set = PromptBatch(tuple(q.text for q in each), tuple(q.seed for q in each), questions.pictures)
        prompt_batches = tuple(batches(whole_set, options["batch"]))
        kept_steps(sampler.steps, options["timesteps"])
        source.check(prompt_batches[0])
        return CalibrationSetSpec(
            source, questions, prompt_batches, options["timesteps"], self._set_artifact(options, questions)
        )

    @cached_property
    def quantized_base(self) -> Artifact | None:
        """The quantized base as an artifact; None for quant=fp and as_stored, which have none."""
        if self.stored:
            return None
        _ = self.activations, self.group_size  # validates the options, also for float weights
        if self.bits is None:
            return None
        _ = self.rounding
        _, exclude = self.layers
        calibration = content({"calibration": self.effective_options}, "calibration")
        calibration["search"] = {"name": self.search.name, **calibration["search"]}
        parents = {} if self.set_spec is None else {"calibration_set": self.set_spec.artifact}
        identity = {
            "base": folder_fingerprint(self.folder()),
            "quant": {**content(self.settings, "quant"), "exclude": exclude},
            "calibration": calibration,
            **trainer_content(self.settings),
            **{role: artifact.identity for role, artifact in parents.items()},
        }
        label = f"{self.settings['base']['name']}-{self.name}"
        return Artifact(self.store, "quantized_base", label, "quantbooth-calibrate", identity, parents)

    def _set_artifact(self, options: Mapping[str, Any], questions: Questions) -> Artifact:
        identity = {
            "base": folder_fingerprint(self.folder()),
            "questions": questions.fingerprint,
            "sampler": content(self.settings, "sampler"),
            **content(self.settings, "calibration.set"),
            **trainer_content(self.settings),
        }
        label = f"{self.settings['base']['name']}-{options['source']}"
        return Artifact(self.store, "calibration_set", label, "quantbooth-calibrate", identity)

    def _questions(self, options: Mapping[str, Any]) -> Questions:
        """Return the user's prompts, from the option or a file, else the base's held-out prompts with other seeds."""
        count, seed, prompts = options["count"], options["seed"], options["prompts"]
        if prompts is not None:
            given = _lines(Path(prompts).expanduser()) if isinstance(prompts, str) else prompts
            require_all(given, "calibration.set.prompts", count, "calibration.set.count")
            return questions_of(given, count, seed, option="calibration.set.prompts")
        return build(self.cfg.base.held_out, Questions, count=count, seed=seed)


def _lines(file: Path) -> list[str]:
    """Read the prompts of a text file, one per line, without empty lines."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "calibration.set.prompts must be a list of sentences such as [a dog,a red car], "
            f"or a text file with one a line, got {str(file)!r}: {error}"
        ) from error
    return [line.strip() for line in lines if line.strip()]
