"""quantbooth-export: write a tuned base as float weights for other tools, with a model card.

quantbooth-export subject=toy_mug strategy=s2                        # a folder for diffusers, a denoiser for each zone
quantbooth-export subject=toy_mug strategy=s2 export.merged=true     # one denoiser for all zones, its error measured
quantbooth-export subject=toy_mug export.format=safetensors          # the denoiser alone, one file
quantbooth-export subject=toy_mug method=qlora export.format=lora    # the adapters alone, as diffusers loads them
quantbooth-export subject=toy_mug method=qa_lora export.format=quantized  # the same integers with other zero points
quantbooth-export subject=toy_mug export.step=0                      # the quantized base itself
quantbooth-export scale_sets=NAME                                    # finished work, by a name of quantbooth-list
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from quantbooth.diffusion.base import Base
from quantbooth.export.files import (
    PRECISIONS,
    Denoisers,
    float_denoiser,
    model_card,
    write_lora,
    write_pipeline,
    write_weights,
)
from quantbooth.export.integers import write_integers
from quantbooth.export.merging import Merging, prediction_errors
from quantbooth.quant import adapters
from quantbooth.quant.merging import average, merged_state, require_mergeable
from quantbooth.run.as_stored import require_own_layers
from quantbooth.run.models import tuned_base
from quantbooth.run.reopened import run_of
from quantbooth.run.run import Run
from quantbooth.run.tuner_options import not_read
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.used import name_unused
from quantbooth.store.files import atomic_folder, require_free
from quantbooth.timesteps.strategies import Strategy

__all__ = ["check_job", "export", "job"]

USUAL_FORMAT = "diffusers"
USUAL_PRECISION = "float32"
OF_TUNING = ("method", "strategy", "tuner", "prior", "optimizer", "seed", "tag")
UNUSED = (
    *("sampler", "scorer", "locator", "dino", "logger", "preview", "resources.group_offload"),
    *("protocol.seeds", "protocol.prompt_stride", "protocol.prior_prompts", "protocol.batch"),
)
"""Options of drawing and scoring, which a command with the options of a run may be given too."""
unused_in = partial(not_read, UNUSED)


@dataclass(frozen=True)
class Options:
    """The config group `export`."""

    format: str
    folder: str
    step: int | None
    merged: bool
    precision: str


def export(run: Run) -> Path:
    """Write one tuned (or untuned) base for other tools; return its folder in export.folder."""
    one, (options, step) = run.only, _required(run)
    if step == 0:
        name_unused(sys.argv[1:], OF_TUNING, "with export.step=0, the untuned base")
    merging = _merging(run.strategy if step else run.plan, step)
    destination = Path(options.folder) / _name(run, step, options)
    require_free(destination, "export.folder")
    base, _ = tuned_base(run, step, [one])
    main = base.component
    if options.format not in ("lora", "quantized"):
        require_mergeable(base.denoiser)
    denoisers: Denoisers = {
        name: partial(merged_state, base.denoiser, index) for name, index in merging.folders(main).items()
    }
    if options.merged:
        denoisers = {main: partial(average, base.denoiser, merging.shares)}
    with atomic_folder(destination, "export.folder") as folder:
        errors = _errors(run, base, denoisers) if options.merged and len(merging.shares) > 1 else {}
        if options.format == "diffusers":
            write_pipeline(base, denoisers, merging.rows(main), folder, PRECISIONS[options.precision])
        elif options.format == "lora":
            write_lora(adapters.read(base.denoiser), main, folder, PRECISIONS[options.precision])
        elif options.format == "quantized":
            write_integers(base.denoiser, next(iter(merging.shares)), _quantized_folder(run), folder)
        else:
            write_weights(denoisers[main](), main, folder, PRECISIONS[options.precision])
        (folder / "README.md").write_text(model_card(**_facts(run, step, merging, options, base), errors=errors))
    print(f"exported: {destination}")  # noqa: T201  # what a person looks for next
    return destination


def _required(run: Run) -> tuple[Options, int]:
    """Return the options and the step of an export that can be written.

    Raises:
        UserError: for an option of generated pictures, and for a format that cannot store what is asked for.
    """
    require_own_layers(run.settings, "quantbooth-export")
    for option in ("lora", "unconditional_strength", "reward_guidance", "negative_prompt", "prompt"):
        if run.settings[option] not in (None, "", []):
            raise UserError(f"{option} is for quantbooth-sample; leave it out of an export")
    options = Options(**run.only.settings["export"])
    run.check("plan", "recipe", "tuner")
    step = run.recipe.steps if options.step is None else options.step
    denoisers = len(_merging(run.plan, step).shares)
    if options.format != USUAL_FORMAT and denoisers > 1 and not options.merged:
        mergeable = "export.merged=true, or " if options.format == "safetensors" else ""
        raise UserError(
            f"strategy {run.plan.name} has {denoisers} denoisers, one file holds one; choose "
            f"{mergeable}export.format=diffusers"
        )
    if options.format != USUAL_FORMAT and step and run.settings["tuner"]["identifier"]:
        raise UserError(
            f"export.format={options.format} cannot store a learned identifier; choose export.format=diffusers"
        )
    if run.strength.name and not step:
        raise UserError("strength is of what was tuned, export.step=0 is the untuned base; leave out one of them")
    if run.strength.by_interval:
        raise UserError(
            "strength by intervals of timesteps cannot be exported; name zones of the strategy, or generate pictures "
            "with quantbooth-sample"
        )
    if step:
        run.strength.of(run.plan, run.tuner)
    if options.merged and denoisers == 1 and options.format not in ("lora", "quantized"):
        raise UserError(
            f"export.merged=true makes one denoiser of several, {run.plan.name if step else 'the untuned base'} has "
            "one; leave it out"
        )
    if options.format == "lora":
        _require_a_lora(run, step, options)
    if options.format == "quantized":
        _require_integers(run, step, options)
    return options, step


def _merging(strategy: Strategy, step: int) -> Merging:
    """Return what a step of a strategy uses at which timestep; the untuned base has one set for all."""
    stretches = strategy.stretches if step else ((0, strategy.sampling_zones.timesteps, 0),)
    return Merging(stretches, strategy.sampling_zones)


def _require_a_lora(run: Run, step: int, options: Options) -> None:
    """Refuse what a LoRA file cannot store."""
    if run.tuner.kind != "adapters" or step == 0:
        raise UserError("export.format=lora needs tuned adapters; choose tuner=lora or tuner=qlora")
    if run.settings["tuner"].get("group_size") is not None:
        raise UserError(
            "export.format=lora cannot store adapters of groups of inputs; choose export.format=quantized or diffusers"
        )
    if options.merged:
        raise UserError("export.format=lora cannot store what export.merged=true makes; choose export.format=diffusers")


def _require_integers(run: Run, step: int, options: Options) -> None:
    """Refuse what packed codes with other zero points cannot store."""
    if run.tuner.kind != "adapters" or run.settings["tuner"].get("group_size") is None or step == 0:
        raise UserError("export.format=quantized needs tuned adapters of groups of inputs; choose tuner=qa_lora")
    if run.calibration.activations is not None:
        raise UserError(
            "export.format=quantized merges adapters, which read float activations, and quant.act_bits quantizes them; "
            "choose a quant of weights alone"
        )
    if options.merged or options.precision != USUAL_PRECISION:
        given = "export.merged=true" if options.merged else f"export.precision={options.precision}"
        raise UserError(f"export.format=quantized cannot store what {given} makes; leave it out")


def _quantized_folder(run: Run) -> Path:
    """Return the folder of the quantized base."""
    if run.quantized_base is None:
        raise ValueError("adapters of groups of inputs have a quantized base")
    return run.quantized_base.require()


def _name(run: Run, step: int, options: Options) -> str:
    """Return a name from the run, the step unless it is the last, and options that are not the default."""
    parts = [
        _made_by(run, step),
        f"step{step}" if step not in (0, run.recipe.steps) else "",
        run.strength.name.removeprefix("-") if step else "",
        "merged" if options.merged else "",
    ]
    parts += [options.format] if options.format != USUAL_FORMAT else []
    return "-".join(part for part in parts if part)


def _made_by(run: Run, step: int) -> str:
    """Return the name of the tuning run, or of the untuned base."""
    return run.only.tuned.require().name if step else run.only.images(0).label


def _errors(run: Run, base: Base, denoisers: Denoisers) -> dict[str, tuple[float, float]]:
    """Return the error of merging by zone (see `export.merging`)."""
    merged = base.with_denoiser(float_denoiser(base, denoisers[base.component]()))
    found = prediction_errors(base, merged, run.only.subject, run.strategy.sampling_zones, run.loop)
    base.networks.to("cpu")  # where weights are formed and written: they do not fill a card
    return found


def _facts(run: Run, step: int, merging: Merging, options: Options, base: Base) -> dict[str, Any]:
    """Return the facts for the model card."""
    main = base.component
    rows = [(0, merging.timesteps, main)] if options.merged else merging.rows(main)
    return {
        "base": run.base_name,
        "component": main,
        "absent": "".join(f", {part}=None" for part in base.family.absent_parts),
        "call": "".join(f", {option}={value!r}" for option, value in base.family.call_options.items()),
        "licence": run.settings["base"]["licence"],
        "subject": run.only.subject,
        "method": run.served_method if step else "the base as quantized, not tuned",
        "quant": run.calibration.name,
        "step": step,
        "settings": run.settings,
        "run": _made_by(run, step),
        "zones": rows,
        "sets": len(merging.shares),
        "options": options,
    }


def check_job(cfg: DictConfig) -> None:
    """Refuse what the job cannot do, before the first job of a sweep."""
    _required(run_of(cfg))


def job(cfg: DictConfig) -> Path:
    """Run the command on one configuration."""
    return export(run_of(cfg))
