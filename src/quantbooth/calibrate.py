"""quantbooth-calibrate: a float base becomes a quantized one.

quantbooth-calibrate base=toy quant=w4 calibration=qdiffusion
"""

from pathlib import Path

from lightning.pytorch import Trainer
from omegaconf import DictConfig

from quantbooth.artifacts.quantized_base import WEIGHTS, write_quantized_unet
from quantbooth.cli import command
from quantbooth.config import build
from quantbooth.data.options import flag
from quantbooth.diffusion.pretrained import load_base
from quantbooth.diffusion.shortcuts import concatenations
from quantbooth.errors import UserError
from quantbooth.plan import Plan
from quantbooth.quant.scale_search import ScaleSearch
from quantbooth.quant.surgery import NO_SPLITS, matching
from quantbooth.stages.calibration import CalibrationStage
from quantbooth.stages.costs import measured
from quantbooth.stages.progress import Bar

__all__ = ["calibrate", "main"]


def calibrate(cfg: DictConfig) -> Path:
    """Quantize the unet of the base; return the folder of the quantized base."""
    plan = Plan(cfg)
    if plan.quantized_base is None:
        raise UserError("quant=fp keeps the base as it is: there is nothing to calibrate")
    search, split = build(cfg.calibration.search, ScaleSearch), flag("quant.split", cfg.quant.split)
    if found := plan.quantized_base.find():
        return found
    trainer = build(cfg.trainer, Trainer, logger=False, callbacks=[Bar(f"quantizing {plan.quant_name}")])
    with plan.quantized_base.writing(plan.settings) as draft:
        with measured() as cost:
            unet = load_base(plan.base_folder, plan.settings["base"]["name"]).unet
            stage = CalibrationStage(unet, search, concatenations(unet) if split else NO_SPLITS)
            names = matching(unet, cfg.quant.include, cfg.quant.exclude)
            trainer.predict(stage, stage.loader(names), return_predictions=False)
            write_quantized_unet(draft.path, unet, stage.replaced)
        draft.measured.update(
            layers=len(stage.replaced),
            file_bytes=(draft.path / WEIGHTS).stat().st_size,
            mean_weight_error=sum(stage.errors.values()) / len(stage.errors),
            seconds=round(cost.seconds, 3),
            peak_memory_bytes=cost.peak_memory_bytes,
        )
    return plan.quantized_base.require()


main = command(calibrate, "quantbooth")

if __name__ == "__main__":
    main()
