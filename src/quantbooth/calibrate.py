"""quantbooth-calibrate: a float base becomes a quantized one.

quantbooth-calibrate base=toy quant=w4 calibration=qdiffusion
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch import nn

from quantbooth.artifacts.calibration_set import CalibrationSet
from quantbooth.artifacts.progress import Progress
from quantbooth.artifacts.quantized_base import WEIGHTS, write_blocks, write_quantized_unet
from quantbooth.calibration_plan import CalibrationPlan
from quantbooth.cli import command
from quantbooth.config import build
from quantbooth.data.draws import place_loader
from quantbooth.data.options import flag
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import load_base
from quantbooth.diffusion.shortcuts import concatenations
from quantbooth.errors import UserError
from quantbooth.plan import Plan
from quantbooth.quant.scale_search import ScaleSearch
from quantbooth.quant.surgery import NO_SPLITS, Replaced, matching
from quantbooth.stages.block_rounding import BlockRounding, Outcome
from quantbooth.stages.calibration import CalibrationStage
from quantbooth.stages.calibration_set import CalibrationSetStage
from quantbooth.stages.costs import measured
from quantbooth.stages.loggers import close
from quantbooth.stages.progress import Bar
from quantbooth.stages.reconstruction import Reconstruction

__all__ = ["calibrate", "main"]


@dataclass(frozen=True)
class Made:
    """A quantized unet, which of its layers are quantized, figures of it, and the errors of its blocks, if any."""

    unet: nn.Module
    replaced: list[Replaced]
    figures: dict[str, float]
    blocks: list[dict[str, Any]]


def calibrate(cfg: DictConfig) -> Path:
    """Quantize the unet of the base; return the folder of the quantized base."""
    plan = Plan(cfg)
    if plan.quantized_base is None:
        raise UserError("quant=fp keeps the base as it is: there is nothing to calibrate")
    search, seen = build(cfg.calibration.search, ScaleSearch), plan.calibration_set
    recipe = None if seen is None else build(cfg.calibration.rounding, Reconstruction)
    flag("quant.split", cfg.quant.split)
    if found := plan.quantized_base.find():
        return found
    if seen is not None:
        draw_set(plan, seen)
    with plan.quantized_base.writing(plan.settings) as draft:
        progress = Progress(plan.store.root / "unfinished" / draft.destination.name)
        with measured() as cost:
            if seen is None or recipe is None:
                made = to_nearest(plan, search)
            else:
                made = as_learned(plan, search, recipe, CalibrationSet(seen.item.require()), progress)
            write_quantized_unet(draft.path, made.unet, made.replaced)
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


def layers(plan: Plan, unet: nn.Module) -> tuple[list[str], Any]:
    """Names of the layers to quantize, and the splits of some."""
    names = matching(unet, plan.cfg.quant.include, plan.cfg.quant.exclude)
    return names, concatenations(unet) if plan.cfg.quant.split else NO_SPLITS


def draw_set(plan: Plan, seen: CalibrationPlan) -> None:
    """Make what the unet is run on, once per base and choice of it."""
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
    unet = float_base(plan).unet
    names, splits = layers(plan, unet)
    stage = CalibrationStage(unet, search, splits)
    trainer = build(plan.cfg.trainer, Trainer, logger=False, callbacks=[Bar(f"quantizing {plan.quant_name}")])
    trainer.predict(stage, stage.loader(names), return_predictions=False)
    mean = sum(stage.errors.values()) / len(stage.errors)
    return Made(unet, stage.replaced, {"mean_weight_error": mean}, [])


def as_learned(
    plan: Plan, search: ScaleSearch, recipe: Reconstruction, items: CalibrationSet, progress: Progress
) -> Made:
    """Rounding learned block by block; a run that was stopped goes on at its block."""
    unet = float_base(plan).unet
    names, splits = layers(plan, unet)
    logger = build(plan.cfg.logger, Logger, run=progress.folder.name)

    def trainer(what: str) -> Trainer:
        return build(plan.cfg.trainer, Trainer, logger=False, max_steps=recipe.iterations, callbacks=[Bar(what)])

    unet.to(trainer("").strategy.root_device)
    rounding = BlockRounding(unet, names, splits, search, recipe, items, trainer)
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


main = command(calibrate, "quantbooth")

if __name__ == "__main__":
    main()
