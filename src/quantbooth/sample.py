"""quantbooth-sample: pictures of a tuned (or untuned) base for the protocol's prompts and seeds.

quantbooth-sample subject=toy_mug strategy=s2
"""

from pathlib import Path

from lightning.pytorch import Trainer
from omegaconf import DictConfig

from quantbooth.artifacts.image_set import write_image, write_requests
from quantbooth.cli import command
from quantbooth.config import build
from quantbooth.data.draws import place_loader
from quantbooth.plan import Plan
from quantbooth.stages.costs import measured
from quantbooth.stages.progress import Bar
from quantbooth.stages.sampling import SamplingStage

__all__ = ["main", "sample"]


def sample(cfg: DictConfig) -> list[Path]:
    """Render every request of the protocol at every step that is looked at; return the folders of pictures."""
    plan = Plan(cfg)
    return [render(plan, step) for step in plan.steps]


def render(plan: Plan, step: int) -> Path:
    """The image set after one step."""
    item = plan.images(step)
    if found := item.find():
        return found
    requests = plan.requests()
    trainer = build(plan.cfg.trainer, Trainer, logger=False, callbacks=[Bar(f"drawing {item.label}")])
    with item.writing(plan.settings) as draft:
        with measured() as cost:
            stage = SamplingStage(plan.tuned_base(step), plan.sampler, requests, draft.path)
            trainer.predict(stage, place_loader(len(requests), plan.protocol.batch), return_predictions=False)
        write_requests(draft.path, requests)
        for number, picture in enumerate(plan.subject.photos):
            write_image(_references(draft.path) / f"{number}.png", picture)
        draft.measured.update(seconds=round(cost.seconds, 3), peak_memory_bytes=cost.peak_memory_bytes)
    return item.require()


def _references(folder: Path) -> Path:
    (folder / "references").mkdir(exist_ok=True)
    return folder / "references"


main = command(sample, "quantbooth")

if __name__ == "__main__":
    main()
