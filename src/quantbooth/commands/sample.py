"""quantbooth-sample: pictures of a tuned (or untuned) base, for the protocol's prompts or for a person's own sentences.

quantbooth-sample subject=toy_mug strategy=s2
quantbooth-sample subject=toy_mug strategy=s2 'prompt="a {} on the beach"' protocol.seeds=[0,1,2]
quantbooth-sample subject=toy_mug strategy=s2 lora=[style.safetensors:0.8]
quantbooth-sample prompt="a sks mug on the beach" scale_sets=outputs/store/scale_sets/NAME protocol.batch=auto
quantbooth-sample subjects=[toy_mug,toy_duck] 'prompt="a {} on the beach"'
"""

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from quantbooth.data.prompts import wishes
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.lora_files import add_loras_
from quantbooth.diffusion.router import SubjectsRoute
from quantbooth.reporting.images import contact_sheet
from quantbooth.run.load import load
from quantbooth.run.models import tuned_base
from quantbooth.run.run import Run, SubjectRun
from quantbooth.runtime.cli import command
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.profiling import measured
from quantbooth.runtime.progress import say_found
from quantbooth.sampling.drawing import draw_missing, gather
from quantbooth.sampling.image_set import Request, write_image, write_requests
from quantbooth.sampling.module import Drawing, SamplingStage, drawings
from quantbooth.store.files import full_disk_in_one_line
from quantbooth.store.store import all_made, named

__all__ = ["draw", "draw_own", "main", "sample"]

CELL = 192
"""Side of a picture on the sheet, in pixels."""


def sample(run: Run) -> list[Path]:
    """Render every request of the protocol at every step that is looked at; return the folders of pictures.

    Rows of several subjects are mixed in each batch; folders come step by step, then subject by subject.
    """
    run.check("sampler", "steps", "tuner", "loras")
    return [folder for step in run.steps for folder in render(run, step)]


def render(run: Run, step: int) -> list[Path]:
    """The image sets after one step, of all subjects."""
    items = [one.images(step) for one in run.subjects]
    for item in items:
        say_found(item.find())

    def missing() -> list[SubjectRun]:
        return [one for one, item in zip(run.subjects, items, strict=True) if not item.find()]

    return all_made(items, lambda: _draw_sets(run, missing(), step))


def _draw_sets(run: Run, subjects: Sequence[SubjectRun], step: int) -> None:
    items = [one.images(step) for one in subjects]
    with ExitStack() as stack:
        drafts = [stack.enter_context(item.writing(one.settings)) for item, one in zip(items, subjects, strict=True)]
        asked = [one.requests() for one in subjects]
        wanted = [
            drawings(requests, draft.unfinished, place)
            for place, (requests, draft) in enumerate(zip(asked, drafts, strict=True))
        ]
        with measured() as cost:
            base, route = tuned_base(run, step, subjects)
            found = iter(_draw(run, base, route, wanted, named([item.label for item in items])))
        for one, requests, draft in zip(subjects, asked, drafts, strict=True):
            gather(requests, draft.unfinished, draft.path)
            write_requests(draft.path, requests)
            for number, picture in enumerate(one.subject.photos):
                write_image(_references(draft.path) / f"{number}.png", picture)
            seconds, drawn = round(cost.seconds / len(subjects), 3), sum(next(found) for _ in requests)
            draft.measured.update(seconds=seconds, peak_memory_bytes=cost.peak_memory_bytes, found_drawn=drawn)
    for draft in drafts:
        shutil.rmtree(draft.unfinished, ignore_errors=True)


def draw(run: Run) -> list[Path]:
    """The pictures of the protocol, or of the person's own sentences where `prompt` gives some."""
    return sample(run) if run.settings["prompt"] is None else draw_own(run)


def draw_own(run: Run) -> list[Path]:
    """Draw sentences with every seed of the protocol, those that are not there yet; return pictures and their sheets.

    Raises:
        UserError: for several subjects and `scale_sets`, which are those of one.
    """
    run.check("sampler", "protocol", "loras")
    tuned = run.settings["scale_sets"]
    if tuned is not None and run.settings["subjects"] is not None:
        raise UserError("scale_sets are those of one subject; leave subjects or scale_sets out")
    subjects: Sequence[SubjectRun | None] = [None] if tuned is not None else run.subjects
    folders = [Path(tuned) if one is None else one.tuned.require() for one in subjects]
    asked = [_own_requests(run, one, folder.name) for one, folder in zip(subjects, folders, strict=True)]
    places = [Path(run.settings["pictures"]) / folder.name for folder in folders]
    missing = [
        [each for each in drawings(requests, place, number) if not each.path.exists()]
        for number, (requests, place) in enumerate(zip(asked, places, strict=True))
    ]
    if any(missing):
        base, route = _own_base(run, folders)
        with ExitStack() as stack:
            for place in places:
                place.mkdir(parents=True, exist_ok=True)
                stack.enter_context(full_disk_in_one_line(place, "pictures"))
            _draw(run, base, route, missing, named([place.name for place in places]))
    return [path for requests, place in zip(asked, places, strict=True) for path in _shown(requests, place)]


def _own_base(run: Run, folders: Sequence[Path]) -> tuple[Base, SubjectsRoute | None]:
    if run.settings["scale_sets"] is not None:
        return load(run.base_folder, run.base_name, folders)
    return tuned_base(run, run.recipe.steps)


def _own_requests(run: Run, one: SubjectRun | None, tuned: str) -> list[Request]:
    sentences = run.settings["prompt"]
    shown_as = (one or run.only).subject.shown_as if "{}" in str(sentences) else ""
    drawn_by = " ".join([tuned, str(run.sampler), *(str(lora.identity) for lora in run.loras)])
    drawn = wishes(sentences, run.protocol.seeds, shown_as, drawn_by)
    return [Request(wish.file, wish.text, wish.text, wish.text, "own", wish.seed) for wish in drawn]


def _draw(
    run: Run, base: Base, route: SubjectsRoute | None, wanted: Sequence[Sequence[Drawing]], what: str
) -> list[bool]:
    """Draw what is missing, LoRA files of others added to the base; of each drawing, whether it was there already."""
    add_loras_(base, run.loras)
    stage = SamplingStage(base, run.sampler, [one for of_subject in wanted for one in of_subject], route)
    return draw_missing(stage, run.trainer(f"drawing {what}", shared=True), run.protocol.batch)


def _shown(requests: Sequence[Request], folder: Path) -> list[Path]:
    """Pictures and their sheet, and a line about them: what a person looks for next."""
    sheet = write_sheet(folder, requests)
    print(f"{len(requests)} pictures in {folder}, all on {sheet.name}")  # noqa: T201
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


def _references(folder: Path) -> Path:
    (folder / "references").mkdir(exist_ok=True)
    return folder / "references"


main = command(lambda cfg: draw(Run(cfg)), "quantbooth")

if __name__ == "__main__":
    main()
