"""quantbooth-sample: pictures of a tuned (or untuned) base, for the protocol's prompts or for a person's own sentences.

quantbooth-sample subject=toy_mug strategy=s2
quantbooth-sample subject=toy_mug strategy=s2 'prompt="a {} on the beach"' protocol.seeds=[0,1,2]
quantbooth-sample subject=toy_mug strategy=s2 lora=[style.safetensors:0.8]
quantbooth-sample prompt="a sks mug on the beach" scale_sets=outputs/store/scale_sets/NAME protocol.batch=auto
quantbooth-sample subject=[toy_mug,toy_duck] tuner.together=true 'prompt="a {} on the beach"'
"""

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lightning.pytorch import Trainer
from omegaconf import DictConfig

from quantbooth.artifacts.disk import full_disk_in_one_line
from quantbooth.artifacts.image_set import Request, write_image, write_requests
from quantbooth.artifacts.item import all_made
from quantbooth.cli import command
from quantbooth.config import build
from quantbooth.data.sentences import wishes
from quantbooth.errors import UserError
from quantbooth.plan import Plan
from quantbooth.reporting.sheets import contact_sheet
from quantbooth.stages.costs import measured
from quantbooth.stages.drawing import draw_missing, gather
from quantbooth.stages.progress import Bar
from quantbooth.stages.sampling import Share, SubjectsSampling
from quantbooth.together import Served, base_of, named

__all__ = ["draw", "draw_all", "main", "sample", "sample_all"]

CELL = 192
"""Side of a picture on the sheet, in pixels."""


def sample(cfg: DictConfig) -> list[Path]:
    """Render every request of the protocol at every step that is looked at; return the folders of pictures."""
    return sample_all([cfg])


def sample_all(cfgs: Sequence[DictConfig]) -> list[Path]:
    """The same for several subjects, their rows mixed in each batch; folders step by step, then subject by subject."""
    plans = [Plan(cfg) for cfg in cfgs]
    return [folder for step in plans[0].steps for folder in render(plans, step)]


def render(plans: Sequence[Plan], step: int) -> list[Path]:
    """The image sets after one step, of all subjects."""
    items = [plan.images(step) for plan in plans]
    return all_made(
        items, lambda: _draw_sets([plan for plan, item in zip(plans, items, strict=True) if not item.find()], step)
    )


def _draw_sets(plans: Sequence[Plan], step: int) -> None:
    items = [plan.images(step) for plan in plans]
    with ExitStack() as stack:
        drafts = [stack.enter_context(item.writing(plan.settings)) for item, plan in zip(items, plans, strict=True)]
        shares = [Share(tuple(plan.requests()), draft.unfinished) for plan, draft in zip(plans, drafts, strict=True)]
        with measured() as cost:
            stage = _stage(plans[0], base_of(plans, step), shares)
            trainer = _trainer(plans[0], f"drawing {named([item.label for item in items])}")
            found = iter(draw_missing(stage, trainer, plans[0].protocol.batch))
        for plan, share, draft in zip(plans, shares, drafts, strict=True):
            gather(share.requests, share.folder, draft)
            write_requests(draft.path, share.requests)
            for number, picture in enumerate(plan.subject.photos):
                write_image(_references(draft.path) / f"{number}.png", picture)
            seconds, drawn = round(cost.seconds / len(plans), 3), sum(next(found) for _ in share.requests)
            draft.measured.update(seconds=seconds, peak_memory_bytes=cost.peak_memory_bytes, found_drawn=drawn)
    for draft in drafts:
        shutil.rmtree(draft.unfinished, ignore_errors=True)


def draw(cfg: DictConfig) -> list[Path]:
    """The pictures of the protocol, or of the person's own sentences where `prompt` gives some."""
    return draw_all([cfg])


def draw_all(cfgs: Sequence[DictConfig]) -> list[Path]:
    """The same for several subjects, their rows mixed in each batch."""
    return sample_all(cfgs) if cfgs[0].prompt is None else draw_own([Plan(cfg) for cfg in cfgs])


def draw_own(plans: Sequence[Plan]) -> list[Path]:
    """Draw sentences with every seed of the protocol, those that are not there yet; return pictures and their sheets.

    Raises:
        UserError: for several subjects and `scale_sets`, which are those of one.
    """
    if len(plans) > 1 and plans[0].settings["scale_sets"] is not None:
        raise UserError(f"scale_sets are those of one subject, got {len(plans)} subjects; leave one of the two out")
    places = [_place(plan) for plan in plans]
    folders = [Path(plan.settings["pictures"]) / place.name for plan, place in zip(plans, places, strict=True)]
    requests = [_own_requests(plan, place.name) for plan, place in zip(plans, places, strict=True)]
    shares = _shares(requests, folders)
    missing = [
        (plan, Share(tuple(one for one in share.requests if not (share.folder / one.file).exists()), share.folder))
        for plan, share in zip(plans, shares, strict=True)
    ]
    if todo := [(plan, share) for plan, share in missing if share.requests]:
        served, batch = _own_base([plan for plan, _ in todo]), plans[0].protocol.batch
        with ExitStack() as stack:
            for _, share in todo:
                share.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(full_disk_in_one_line(share.folder, "pictures"))
            what = f"drawing with {named([share.folder.name for _, share in todo])}"
            draw_missing(_stage(plans[0], served, [share for _, share in todo]), _trainer(plans[0], what), batch)
    return [path for share in shares for path in _shown(share)]


def _shown(share: Share) -> list[Path]:
    """Pictures and their sheet, and a line about them: what a person looks for next."""
    sheet = write_sheet(share.folder, share.requests)
    print(f"{len(share.requests)} pictures in {share.folder}, all on {sheet.name}")  # noqa: T201
    return [*(share.folder / request.file for request in share.requests), sheet]


def _place(plan: Plan) -> Path:
    tuned = plan.settings["scale_sets"]
    return plan.tuned.require() if tuned is None else Path(tuned)


def _own_base(plans: Sequence[Plan]) -> Served:
    if plans[0].settings["scale_sets"] is None:
        return base_of(plans, plans[0].recipe.steps)
    return plans[0].loaded_base(_place(plans[0])), None


def _own_requests(plan: Plan, tuned: str) -> list[Request]:
    sentences = plan.settings["prompt"]
    subject = plan.subject.shown_as if "{}" in str(sentences) else ""
    drawn_by = " ".join([tuned, str(plan.sampler), *(str(lora.identity) for lora in plan.loras)])
    drawn = wishes(sentences, plan.protocol.seeds, subject, drawn_by)
    return [Request(wish.file, wish.text, wish.text, wish.text, "own", wish.seed) for wish in drawn]


def _shares(requests: Sequence[Sequence[Request]], folders: Sequence[Path]) -> list[Share]:
    return [Share(tuple(asked), folder) for asked, folder in zip(requests, folders, strict=True)]


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


def _stage(plan: Plan, served: Served, shares: Sequence[Share]) -> SubjectsSampling:
    base, route = served
    return SubjectsSampling(plan.with_loras(base), plan.sampler, shares, route)


def _trainer(plan: Plan, what: str) -> Trainer:
    return build(plan.cfg.trainer, Trainer, shared=True, logger=False, callbacks=[Bar(what)])


def _references(folder: Path) -> Path:
    (folder / "references").mkdir(exist_ok=True)
    return folder / "references"


main = command(draw, "quantbooth", together=draw_all)

if __name__ == "__main__":
    main()
