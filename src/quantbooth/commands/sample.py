"""quantbooth-sample: generate pictures of a tuned (or untuned) base, for the protocol's prompts or prompts of the user.

quantbooth-sample subject=toy_mug strategy=s2
quantbooth-sample subject=toy_mug strategy=s2 'prompt="a {} on the beach"' protocol.seeds=[0,1,2]
quantbooth-sample subject=toy_mug strategy=s2 lora=[style.safetensors:0.8]
quantbooth-sample scale_sets=NAME 'prompt="a {} on the beach"'    # of finished work, by a name of quantbooth-list
quantbooth-sample subjects=[toy_mug,toy_duck] 'prompt="a {} on the beach"'
"""

import hashlib
import io
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from omegaconf import DictConfig

from quantbooth.data.prompts import expand_prompts
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.lora_files import add_loras_
from quantbooth.diffusion.router import SubjectsRoute
from quantbooth.reporting.images import contact_sheet
from quantbooth.run.experts import not_drawn
from quantbooth.run.load import load
from quantbooth.run.models import tuned_base
from quantbooth.run.offloading import offload_, require_offload
from quantbooth.run.prompts import require_read
from quantbooth.run.reopened import run_of
from quantbooth.run.run import Run
from quantbooth.run.subject_run import SubjectRun
from quantbooth.runtime.profiling import profile
from quantbooth.runtime.progress import say_once
from quantbooth.sampling.generation import collect, generate_missing
from quantbooth.sampling.image_set import Request, prompts_of, write_image, write_requests
from quantbooth.sampling.module import ImageJob, SamplingModule, image_jobs
from quantbooth.schema import trainer_content
from quantbooth.store.files import storage_of, write_whole
from quantbooth.store.store import joined_label, make_all
from quantbooth.tuning.files import open_tuned, strategy_of

__all__ = ["check_job", "generate", "generate_own", "job", "sample"]

CELL = 192
"""Side of a picture on the sheet, in pixels."""


def sample(run: Run) -> list[Path]:
    """Generate every picture of the protocol at every evaluated step; return the folders of pictures.

    A batch mixes rows of several subjects; folders are ordered by step, then by subject.
    """
    _require(run)
    tuned_first = sorted(run.steps, key=lambda step: step == 0)  # what is damaged there is refused before work
    made = {step: render(run, step) for step in tuned_first}
    return [folder for step in run.steps for folder in made[step]]


def _require(run: Run) -> None:
    """Refuse what drawing cannot do, before any work.

    Raises:
        UserError: for options that do not fit together.
    """
    tuned, own = run.settings["scale_sets"], run.settings["prompt"] is not None
    run.check("sampler", "protocol", "loras", *([] if own else ["steps", "tuner"]))
    require_offload(run)
    if tuned is None:
        run.strength.of(run.plan, run.tuner)
        list(not_drawn(run.plan, run.strength, run.timesteps))
    if not own:
        require_read(run)


def render(run: Run, step: int) -> list[Path]:
    """Return the image sets of all subjects after one step."""
    artifacts = [one.images(step) for one in run.subjects]
    return make_all(artifacts, lambda missing: _generate_sets(run, [run.subjects[number] for number in missing], step))


def _generate_sets(run: Run, subjects: Sequence[SubjectRun], step: int) -> None:
    artifacts = [one.images(step) for one in subjects]
    if step:
        _say_not_drawn(run, subjects[0].tuned.require())
    with ExitStack() as stack:
        drafts = [
            stack.enter_context(artifact.writing(one.settings))
            for artifact, one in zip(artifacts, subjects, strict=True)
        ]
        asked = [one.requests() for one in subjects]
        wanted = [
            image_jobs(requests, draft.unfinished, place)
            for place, (requests, draft) in enumerate(zip(asked, drafts, strict=True))
        ]
        with profile() as cost:
            base, route = tuned_base(run, step, subjects, _prompts(run, [each for one in asked for each in one]))
            found = iter(_generate(run, base, route, wanted, joined_label([artifact.label for artifact in artifacts])))
        for one, requests, draft in zip(subjects, asked, drafts, strict=True):
            collect(requests, draft.unfinished, draft.path)
            write_requests(draft.path, requests)
            for number, picture in enumerate(one.subject.photos):
                write_image(_references(draft.path) / f"{number}.png", picture)
            seconds, drawn = round(cost.seconds / len(subjects), 3), sum(next(found) for _ in requests)
            draft.contents["timesteps"] = run.timesteps.tolist()
            draft.measured.update(seconds=seconds, peak_memory_bytes=cost.peak_memory_bytes, found_drawn=drawn)
    for draft in drafts:
        shutil.rmtree(draft.unfinished, ignore_errors=True)


def generate(run: Run) -> list[Path]:
    """Generate the pictures of the protocol, or those of `prompt` if given."""
    return sample(run) if run.settings["prompt"] is None else generate_own(run)


def generate_own(run: Run) -> list[Path]:
    """Generate the missing pictures of `prompt` with every seed of the protocol; return pictures and their sheets."""
    _require(run)
    tuned = run.settings["scale_sets"]
    subjects: Sequence[SubjectRun | None] = [None] if tuned is not None else run.subjects
    require_read(run, [request.text for one in subjects for request in _own_requests(run, one, "")])
    folders = [Path(tuned) if one is None else one.tuned.require() for one in subjects]
    asked = [_own_requests(run, one, folder.name) for one, folder in zip(subjects, folders, strict=True)]
    places = [Path(run.settings["pictures"]) / folder.name for folder in folders]
    missing = [
        [each for each in image_jobs(requests, place, number) if not each.path.exists()]
        for number, (requests, place) in enumerate(zip(asked, places, strict=True))
    ]
    if any(missing):
        _say_not_drawn(run, folders[0])
        base, route = _own_base(run, folders, _prompts(run, [each for one in asked for each in one]))
        with ExitStack() as stack:
            for place in places:
                place.mkdir(parents=True, exist_ok=True)
                stack.enter_context(storage_of(place))
            _generate(run, base, route, missing, joined_label([place.name for place in places]))
    return [path for requests, place in zip(asked, places, strict=True) for path in _shown(requests, place)]


def _say_not_drawn(run: Run, tuned: Path) -> None:
    """Name what of the tuning or its strength no timestep of the sampler uses; all subjects have the same."""
    for line in not_drawn(strategy_of(open_tuned(tuned)), run.strength, run.timesteps):
        say_once(line)


def _own_base(run: Run, folders: Sequence[Path], prompts: Sequence[str] | None) -> tuple[Base, SubjectsRoute | None]:
    if run.settings["scale_sets"] is None:
        return tuned_base(run, run.recipe.steps, prompts=prompts)
    place = (run.base_folder, run.base_name)
    return load(*place, folders, strength=run.strength, prompts=prompts, device=run.loop.device)


def _prompts(run: Run, requests: Sequence[Request]) -> list[str] | None:
    """Return all prompts that pictures need, which are encoded first; None where LoRA files change text encoders."""
    rewarded = run.strength.reward is not None
    return None if run.loras else prompts_of(requests, run.settings["negative_prompt"] or "", rewarded)


def _own_requests(run: Run, one: SubjectRun | None, tuned: str) -> list[Request]:
    sentences = run.settings["prompt"]
    named = "{}" in str(sentences) or run.strength.reward is not None
    shown_as, plain = ((shown := (one or run.only).subject).shown_as, shown.class_word) if named else ("", "")
    more = [*(str(lora.identity) for lora in run.loras), *map(str, trainer_content(run.settings).values())]
    more += [str(value) for value in (run.strength.content, run.settings["negative_prompt"]) if value]
    drawn_by = " ".join([tuned, str(run.sampler), *more])
    drawn = expand_prompts(sentences, run.protocol.seeds, shown_as, drawn_by)
    judged = [job.text.replace(shown_as, plain) if named else job.text for job in drawn]
    return [
        Request(job.file, job.text, text, job.text, "own", job.seed) for job, text in zip(drawn, judged, strict=True)
    ]


def _generate(
    run: Run, base: Base, route: SubjectsRoute | None, wanted: Sequence[Sequence[ImageJob]], what: str
) -> list[bool]:
    """Generate missing pictures, with added LoRA files; return for each job whether its picture existed."""
    add_loras_(base, run.loras)
    offload_(run, base)
    jobs = [one for of_subject in wanted for one in of_subject]
    negative, reward = run.settings["negative_prompt"] or "", run.strength.reward
    module = SamplingModule(base, run.sampler, jobs, route, negative, reward)
    return generate_missing(module, run.trainer(f"generating {what}", shared=True), run.protocol.batch)


def _shown(requests: Sequence[Request], folder: Path) -> list[Path]:
    """Print a line about the pictures; return them and their sheet."""
    sheet = write_sheet(folder, requests)
    print(f"{len(requests)} pictures in {folder}, all on {sheet.name}")  # noqa: T201
    return [*(folder / request.file for request in requests), sheet]


def write_sheet(folder: Path, requests: Sequence[Request]) -> Path:
    """Write all pictures into one: a row per prompt, a column per seed."""
    rows: dict[str, list[Path]] = {}
    for request in requests:
        rows.setdefault(request.text, []).append(folder / request.file)
    seeds = [f"seed {request.seed}" for request in requests if request.text == requests[0].text]
    digest = hashlib.sha256("".join(request.file for request in requests).encode()).hexdigest()[:6]
    path = folder / f"sheet-{digest}.png"
    buffer = io.BytesIO()
    contact_sheet(rows, seeds, cell=CELL, label_width=CELL).save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())
    return path


def _references(folder: Path) -> Path:
    (folder / "references").mkdir(exist_ok=True)
    return folder / "references"


def check_job(cfg: DictConfig) -> None:
    """Refuse what the job cannot do, before the first job of a sweep."""
    _require(run_of(cfg))


def job(cfg: DictConfig) -> list[Path]:
    """Run the command on one configuration."""
    return generate(run_of(cfg))
