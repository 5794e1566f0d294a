"""quantbooth-evaluate: scores of the pictures, one row each.

quantbooth-evaluate subject=toy_mug strategy=s2 scorer=toy
"""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Trainer
from omegaconf import DictConfig

from quantbooth.artifacts.image_set import read_requests
from quantbooth.artifacts.scores import Record, write_scores
from quantbooth.cli import command
from quantbooth.config import build
from quantbooth.data.draws import place_loader
from quantbooth.diffusion.pretrained import float_bytes
from quantbooth.plan import Plan
from quantbooth.stages.evaluation import EvaluationStage
from quantbooth.stages.progress import Bar

__all__ = ["evaluate", "evaluate_all", "main"]


def evaluate(cfg: DictConfig) -> list[Path]:
    """Score the pictures of every step that is looked at; return the folders of scores."""
    plan = Plan(cfg)
    return [score(plan, step) for step in plan.steps]


def evaluate_all(cfgs: Sequence[DictConfig]) -> list[Path]:
    """The scores of several subjects, one after the other."""
    return [folder for cfg in cfgs for folder in evaluate(cfg)]


def score(plan: Plan, step: int) -> Path:
    """The scores after one step."""
    item = plan.scores(step)
    if found := item.find():
        return found
    images = plan.images(step).require()
    trainer = build(plan.cfg.trainer, Trainer, logger=False, callbacks=[Bar(f"scoring {item.label}")])
    with item.writing(plan.settings) as draft:
        requests = read_requests(images)
        untuned = plan.images(0).require() if plan.protocol.drift else None
        stage = EvaluationStage(plan.scorer, plan.subject, requests, images, untuned)
        trainer.test(stage, place_loader(len(requests), plan.protocol.scored), verbose=False)
        write_scores(draft.path, record_of(plan, step, images), stage.rows, stage.measured_with)
    return item.require()


def record_of(plan: Plan, step: int, images: Path) -> Record:
    """What the scores are about."""
    tuned = plan.tuned.manifest() if step else None
    quantized = plan.quantized_base.manifest() if plan.quantized_base else None
    costs = dict(tuned.measured) if tuned else {}
    costs["base_file_bytes"] = (
        quantized.measured["file_bytes"]
        if quantized
        else float_bytes(plan.base_folder, plan.settings["base"]["stored_bits"])
    )
    return Record(
        method=plan.method if step else "base",
        subject=plan.subject.name,
        quant=plan.drawn_weights,
        seed=plan.settings["seed"] if step else 0,
        step=step,
        base=plan.settings["base"]["name"],
        scorer=plan.scorer.name,
        protocol=str(plan.protocol),
        costs=costs,
        images=str(images.relative_to(plan.store.root)),
        run=tuned.name if tuned else (quantized.name if quantized else "float base"),
    )


main = command(evaluate, "quantbooth", together=evaluate_all)

if __name__ == "__main__":
    main()
