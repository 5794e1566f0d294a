"""quantbooth-calibrate: a float base becomes a quantized one.

quantbooth-calibrate base=toy quant=w4 calibration=qdiffusion
quantbooth-calibrate base=toy quant=w4a8 calibration=qdiffusion    # and its activations, in simulated integers
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from quantbooth.calibration.calibration_set import CalibrationSet, draw_calibration_set
from quantbooth.calibration.layerwise import quantize_layers_
from quantbooth.calibration.quantized_attention import Bits
from quantbooth.calibration.quantized_base import WEIGHTS, write_blocks, write_quantized_denoiser
from quantbooth.calibration.reconstruction import BlockRounding, Outcome, Reconstruction
from quantbooth.calibration.step_learning import BlockSteps, StepRecipe
from quantbooth.calibration.units import Unit
from quantbooth.diffusion.base import Base
from quantbooth.quant.surgery import NO_SPLITS, Replaced, matching, with_inputs
from quantbooth.run.calibration import Observed
from quantbooth.run.models import base_with
from quantbooth.run.run import Run
from quantbooth.runtime.cli import command
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.loggers import close
from quantbooth.runtime.profiling import measured
from quantbooth.runtime.progress import say_found
from quantbooth.store.progress import Progress

__all__ = ["calibrate", "main"]


@dataclass(frozen=True)
class Made:
    """A base with a quantized denoiser, which layers and attentions are, figures, and the errors of blocks, if any."""

    base: Base
    replaced: list[Replaced]
    figures: dict[str, float | str]
    blocks: list[dict[str, Any]]
    attention: Bits | None = None


def calibrate(run: Run) -> Path:
    """Quantize the denoiser of the base; return the folder of the quantized base."""
    calibration, item = run.calibration, run.quantized_base
    if item is None:
        raise UserError("quant=fp keeps the base as it is: there is nothing to calibrate")
    observed, recipe, activations = calibration.observed, calibration.rounding, calibration.activation_recipe
    if found := say_found(item.find()):
        return found
    if observed is not None:
        draw_set(run, observed)
    with item.writing(run.settings) as draft:
        progress = Progress(draft.unfinished)
        with measured() as cost:
            states = None if observed is None else CalibrationSet(observed.item.require())
            if states is None or recipe is None:
                made = to_nearest(run)
            else:
                made = as_learned(run, recipe, states, progress)
            if states is not None and activations is not None:
                made = with_activations(run, made, activations, states, Progress(progress.folder / "activations"))
            write_quantized_denoiser(draft.path, made.base.denoiser, made.replaced, made.attention)
            write_blocks(draft.path, made.blocks)
        draft.measured.update(
            layers=len(made.replaced),
            file_bytes=(draft.path / WEIGHTS).stat().st_size,
            **made.figures,
            seconds=round(cost.seconds, 3),
            peak_memory_bytes=cost.peak_memory_bytes,
        )
    progress.clear()
    return item.require()


def layers(run: Run, base: Base) -> tuple[list[str], Any]:
    """Names of the layers to quantize, and the splits of some."""
    include, exclude, split = run.calibration.layers
    return matching(base.denoiser, include, exclude), base.skip_splits() if split else NO_SPLITS


def draw_set(run: Run, observed: Observed) -> None:
    """Make what the denoiser is run on, once per base and choice of it."""
    if say_found(observed.item.find()):
        return
    with observed.item.writing(run.settings) as draft:
        with measured() as cost:
            base = base_with(run, None)
            what = f"drawing {observed.item.label}"
            draw_calibration_set(base, observed.source, observed.asked, observed.count, draft.path, run.loop, what)
        draft.measured.update(
            items=2 * observed.count * len(observed.questions.each),
            seconds=round(cost.seconds, 3),
            peak_memory_bytes=cost.peak_memory_bytes,
        )


def to_nearest(run: Run) -> Made:
    """Every weight to the nearest code, layer by layer."""
    base = base_with(run, None).denoiser_alone
    names, splits = layers(run, base)
    what = f"quantizing {run.calibration.name}"
    replaced, errors = quantize_layers_(base.denoiser, names, run.calibration.search, splits, run.loop, what)
    return Made(base, replaced, {"mean_weight_error": sum(errors.values()) / len(errors)}, [])


def as_learned(run: Run, recipe: Reconstruction, items: CalibrationSet, progress: Progress) -> Made:
    """Rounding learned block by block; a run that was stopped goes on at its block."""
    base = base_with(run, None).denoiser_alone
    names, splits = layers(run, base)
    logger, trainer = run.logger(progress.folder.name), partial(run.trainer, max_steps=recipe.iterations)
    base.denoiser.to(run.loop.device)
    rounding = BlockRounding(base, names, splits, run.calibration.search, recipe, items, trainer)
    blocks: list[dict[str, Any]] = []

    def note(number: int, outcome: Outcome) -> None:
        blocks.append({"block": outcome.unit.name, "layers": len(outcome.unit.layers), **outcome.errors})
        logger.log_metrics({f"block/{name}": error for name, error in outcome.errors.items()}, step=number)

    try:
        rounding.run(progress, note)
    finally:
        close(logger)
    kept = [min(block["nearest"], block["learned"]) / (block["nearest"] or 1) for block in blocks]
    return Made(rounding.made, rounding.replaced, {"mean_block_error_kept": sum(kept) / len(kept)}, blocks)


def with_activations(run: Run, made: Made, recipe: StepRecipe, items: CalibrationSet, progress: Progress) -> Made:
    """The same with quantized activations; a run that was stopped goes on at its block."""
    activations = run.calibration.activations
    assert activations is not None
    bits, softmax = activations.inputs, activations.softmax
    logger = run.logger(f"{progress.folder.parent.name}-activations")
    trainer = partial(run.trainer, max_steps=max(1, recipe.iterations))
    blocks = {block["block"]: block for block in made.blocks}

    def note(number: int, unit: Unit, errors: Mapping[str, float]) -> None:
        about = blocks.get(unit.name, {"block": unit.name, "layers": len(unit.layers)})
        blocks[unit.name] = {**about, **errors}
        logger.log_metrics({f"block/{name}": error for name, error in errors.items()}, step=number)

    made.base.denoiser.to(run.loop.device)
    try:
        work = BlockSteps(made.base, activations, recipe, items, run.loop, trainer)
        attention = work.run(progress, lambda: base_with(run, None).denoiser_alone, note)
    finally:
        close(logger)
    told = {"activations": f"simulated integers of {bits} bits, softmax {f'{softmax} bits' if softmax else 'float'}"}
    replaced = with_inputs(made.base.denoiser, made.replaced, bits)
    return replace(
        made, replaced=replaced, figures={**made.figures, **told}, blocks=list(blocks.values()), attention=attention
    )


main = command(lambda cfg: calibrate(Run(cfg)), "quantbooth")

if __name__ == "__main__":
    main()
