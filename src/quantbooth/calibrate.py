"""quantbooth-calibrate: a float base becomes a quantized one.

quantbooth-calibrate base=toy quant=w4 calibration=qdiffusion
quantbooth-calibrate base=toy quant=w4a8 calibration=qdiffusion    # and its activations, in simulated integers
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from quantbooth.artifacts.calibration_set import CalibrationSet
from quantbooth.artifacts.progress import Progress
from quantbooth.artifacts.quantized_base import WEIGHTS, write_blocks, write_quantized_denoiser
from quantbooth.calibration_plan import CalibrationPlan
from quantbooth.cli import command
from quantbooth.config import build
from quantbooth.data.draws import place_loader
from quantbooth.data.options import flag
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import load_base
from quantbooth.diffusion.quantized_attention import Bits
from quantbooth.diffusion.units import Unit
from quantbooth.errors import UserError
from quantbooth.plan import Plan
from quantbooth.quant.scale_search import ScaleSearch
from quantbooth.quant.surgery import NO_SPLITS, Replaced, matching, with_inputs
from quantbooth.stages.block_rounding import BlockRounding, Outcome
from quantbooth.stages.block_steps import BlockSteps
from quantbooth.stages.calibration import CalibrationStage
from quantbooth.stages.calibration_set import CalibrationSetStage
from quantbooth.stages.costs import measured
from quantbooth.stages.loggers import close
from quantbooth.stages.progress import Bar
from quantbooth.stages.reconstruction import Reconstruction
from quantbooth.stages.step_learning import StepRecipe

__all__ = ["calibrate", "main"]


@dataclass(frozen=True)
class Made:
    """A base with a quantized denoiser, which layers and attentions are, figures, and the errors of blocks, if any."""

    base: Base
    replaced: list[Replaced]
    figures: dict[str, float | str]
    blocks: list[dict[str, Any]]
    attention: Bits | None = None


def calibrate(cfg: DictConfig) -> Path:
    """Quantize the denoiser of the base; return the folder of the quantized base."""
    plan = Plan(cfg)
    if plan.quantized_base is None:
        raise UserError("quant=fp keeps the base as it is: there is nothing to calibrate")
    search, seen = build(cfg.calibration.search, ScaleSearch), plan.calibration_set
    recipe = None if cfg.calibration.rounding is None else build(cfg.calibration.rounding, Reconstruction)
    steps = None if plan.activations is None else build(cfg.calibration.activations, StepRecipe)
    flag("quant.split", cfg.quant.split)
    if found := plan.quantized_base.find():
        return found
    if seen is not None:
        draw_set(plan, seen)
    with plan.quantized_base.writing(plan.settings) as draft:
        progress = Progress(draft.unfinished)
        with measured() as cost:
            items = None if seen is None else CalibrationSet(seen.item.require())
            if items is None or recipe is None:
                made = to_nearest(plan, search)
            else:
                made = as_learned(plan, search, recipe, items, progress)
            if items is not None and steps is not None:
                made = with_activations(plan, made, steps, items, Progress(progress.folder / "activations"))
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
    return plan.quantized_base.require()


def float_base(plan: Plan) -> Base:
    return load_base(plan.base_folder, plan.settings["base"]["name"])


def layers(plan: Plan, base: Base) -> tuple[list[str], Any]:
    """Names of the layers to quantize, and the splits of some."""
    excluded = base.float_layers if plan.cfg.quant.exclude is None else plan.cfg.quant.exclude
    names = matching(base.denoiser, plan.cfg.quant.include, excluded)
    return names, base.skip_splits() if plan.cfg.quant.split else NO_SPLITS


def draw_set(plan: Plan, seen: CalibrationPlan) -> None:
    """Make what the denoiser is run on, once per base and choice of it."""
    if seen.item.find():
        return
    trainer = build(plan.cfg.trainer, Trainer, logger=False, callbacks=[Bar(f"drawing {seen.item.label}")])
    with seen.item.writing(plan.settings) as draft:
        with measured() as cost:
            stage = CalibrationSetStage(float_base(plan), seen.source, seen.asked, seen.count, draft.path)
            trainer.predict(stage, place_loader(len(seen.asked), 1), return_predictions=False)
        draft.measured.update(
            items=2 * seen.count * len(seen.questions.each),
            seconds=round(cost.seconds, 3),
            peak_memory_bytes=cost.peak_memory_bytes,
        )


def to_nearest(plan: Plan, search: ScaleSearch) -> Made:
    """Every weight to the nearest code, layer by layer."""
    base = float_base(plan).denoiser_alone
    names, splits = layers(plan, base)
    stage = CalibrationStage(base.denoiser, search, splits)
    bar = Bar(f"quantizing {plan.quant_name}")  # scales of activations may be learned through what is made here
    trainer = build(plan.cfg.trainer, Trainer, logger=False, inference_mode=False, callbacks=[bar])
    trainer.predict(stage, stage.loader(names), return_predictions=False)
    mean = sum(stage.errors.values()) / len(stage.errors)
    return Made(base, stage.replaced, {"mean_weight_error": mean}, [])


def as_learned(
    plan: Plan, search: ScaleSearch, recipe: Reconstruction, items: CalibrationSet, progress: Progress
) -> Made:
    """Rounding learned block by block; a run that was stopped goes on at its block."""
    base = float_base(plan).denoiser_alone
    names, splits = layers(plan, base)
    logger = build(plan.cfg.logger, Logger, run=progress.folder.name)

    def trainer(what: str) -> Trainer:
        return build(plan.cfg.trainer, Trainer, logger=False, max_steps=recipe.iterations, callbacks=[Bar(what)])

    base.denoiser.to(trainer("").strategy.root_device)
    rounding = BlockRounding(base, names, splits, search, recipe, items, trainer)
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


def with_activations(plan: Plan, made: Made, recipe: StepRecipe, items: CalibrationSet, progress: Progress) -> Made:
    """The same with quantized activations; a run that was stopped goes on at its block."""
    assert plan.activations is not None
    bits, softmax = plan.activations.inputs, plan.activations.softmax
    logger = build(plan.cfg.logger, Logger, run=f"{progress.folder.parent.name}-activations")
    blocks = {block["block"]: block for block in made.blocks}

    def trainer(what: str) -> Trainer:
        iterations = max(1, recipe.iterations)
        return build(plan.cfg.trainer, Trainer, logger=False, max_steps=iterations, callbacks=[Bar(what)])

    def note(number: int, unit: Unit, errors: Mapping[str, float]) -> None:
        about = blocks.get(unit.name, {"block": unit.name, "layers": len(unit.layers)})
        blocks[unit.name] = {**about, **errors}
        logger.log_metrics({f"block/{name}": error for name, error in errors.items()}, step=number)

    device = trainer("").strategy.root_device
    made.base.denoiser.to(device)
    try:
        work = BlockSteps(made.base, plan.activations, recipe, items, trainer)
        attention = work.run(progress, lambda: float_base(plan).denoiser_alone, note)
    finally:
        close(logger)
    told = {"activations": f"simulated integers of {bits} bits, softmax {f'{softmax} bits' if softmax else 'float'}"}
    replaced = with_inputs(made.base.denoiser, made.replaced, bits)
    return replace(
        made, replaced=replaced, figures={**made.figures, **told}, blocks=list(blocks.values()), attention=attention
    )


main = command(calibrate, "quantbooth")

if __name__ == "__main__":
    main()
