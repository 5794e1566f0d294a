"""quantbooth-sample: pictures of a tuned (or untuned) base, for the protocol's prompts or for a person's own sentences.

quantbooth-sample subject=toy_mug strategy=s2
quantbooth-sample subject=toy_mug strategy=s2 'prompt="a {} on the beach"' protocol.seeds=[0,1,2]
quantbooth-sample subject=toy_mug strategy=s2 lora=[style.safetensors:0.8]
quantbooth-sample prompt="a sks mug on the beach" scale_sets=outputs/store/scale_sets/NAME protocol.batch=auto
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Trainer
from omegaconf import DictConfig

from quantbooth.artifacts.disk import full_disk_in_one_line
from quantbooth.artifacts.image_set import Request, write_image, write_requests
from quantbooth.cli import command
from quantbooth.config import build
from quantbooth.data.sentences import wishes
from quantbooth.plan import Plan
from quantbooth.reporting.sheets import contact_sheet
from quantbooth.stages.costs import measured
from quantbooth.stages.drawing import draw_set
from quantbooth.stages.progress import Bar
from quantbooth.stages.sampling import SamplingStage
from quantbooth.stages.trainers import root_device

__all__ = ["draw", "main", "sample"]

CELL = 192
"""Side of a picture on the sheet, in pixels."""


def sample(cfg: DictConfig) -> list[Path]:
    """Render every request of the protocol at every step that is looked at; return the folders of pictures."""
    plan = Plan(cfg)
    return [render(plan, step) for step in plan.steps]


def render(plan: Plan, step: int) -> Path:
    """The image set after one step."""
    return plan.images(step).made_by(lambda: _draw_all(plan, step))


def _draw_all(plan: Plan, step: int) -> None:
    item, requests = plan.images(step), plan.requests()
    with item.writing(plan.settings) as draft:
        with measured() as cost:
            base = plan.with_loras(plan.tuned_base(step))
            stage = SamplingStage(base, plan.sampler, requests, draft.unfinished)
            draw_set(stage, _trainer(plan, f"drawing {item.label}"), plan.protocol.batch, draft)
        write_requests(draft.path, requests)
        for number, picture in enumerate(plan.subject.photos):
            write_image(_references(draft.path) / f"{number}.png", picture)
        draft.measured.update(seconds=round(cost.seconds, 3), peak_memory_bytes=cost.peak_memory_bytes)
    shutil.rmtree(draft.unfinished, ignore_errors=True)


def draw(cfg: DictConfig) -> list[Path]:
    """The pictures of the protocol, or of the person's own sentences where `prompt` gives some."""
    return sample(cfg) if cfg.prompt is None else draw_own(Plan(cfg))


def draw_own(plan: Plan) -> list[Path]:
    """Draw sentences with every seed of the protocol, those that are not there yet; return pictures and their sheet."""
    tuned = plan.settings["scale_sets"]
    place = plan.tuned.require() if tuned is None else Path(tuned)
    sentences, folder = plan.settings["prompt"], Path(plan.settings["pictures"]) / place.name
    subject = plan.subject.shown_as if "{}" in str(sentences) else ""
    drawn_by = " ".join([place.name, str(plan.sampler), *(str(lora.identity) for lora in plan.loras)])
    drawn = wishes(sentences, plan.protocol.seeds, subject, drawn_by)
    requests = [Request(wish.file, wish.text, wish.text, wish.text, "own", wish.seed) for wish in drawn]
    missing = [request for request in requests if not (folder / request.file).exists()]
    if missing:
        base = plan.tuned_base(plan.recipe.steps) if tuned is None else plan.loaded_base(place)
        plan.with_loras(base)
        folder.mkdir(parents=True, exist_ok=True)
        with full_disk_in_one_line(folder, "pictures"):
            stage = SamplingStage(base, plan.sampler, missing, folder)
            trainer = _trainer(plan, f"drawing with {place.name}")
            loader = stage.loader(plan.protocol.batch, root_device(trainer), trainer.world_size)
            trainer.predict(stage, loader, return_predictions=False)
    sheet = write_sheet(folder, requests)
    print(f"{len(requests)} pictures in {folder}, all on {sheet.name}")  # noqa: T201  # what a person looks for next
    return [*(folder / request.file for request in requests), sheet]


def write_sheet(folder: Path, requests: Sequence[Request]) -> Path:
    """All pictures on one: a row for each sentence, a column for each seed."""
    rows: dict[str, list[Path]] = {}
    for request in requests:
        rows.setdefault(request.text, []).append(folder / request.file)
    seeds = [f"seed {request.seed}" for request in requests if request.text == requests[0].text]
    digest = hashlib.sha256("".join(request.file for request in requests).encode()).hexdigest()[:6]
    path = folder / f"sheet-{digest}.png"
    contact_sheet(rows, seeds, cell=CELL, label_width=CELL).save(path)
    return path


def _trainer(plan: Plan, what: str) -> Trainer:
    return build(plan.cfg.trainer, Trainer, shared=True, logger=False, callbacks=[Bar(what)])


def _references(folder: Path) -> Path:
    (folder / "references").mkdir(exist_ok=True)
    return folder / "references"


main = command(draw, "quantbooth")

if __name__ == "__main__":
    main()
