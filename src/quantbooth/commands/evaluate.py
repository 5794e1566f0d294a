"""quantbooth-evaluate: score generated pictures, one row each.

quantbooth-evaluate subject=toy_mug strategy=s2 scorer=toy
quantbooth-evaluate scale_sets=NAME                   # finished work, by a name of quantbooth-list
"""

from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from quantbooth.diffusion.pretrained import file_bytes
from quantbooth.evaluation.files import Record, write_scores
from quantbooth.evaluation.module import EvaluationModule
from quantbooth.run.judges import require_judged
from quantbooth.run.reopened import run_of
from quantbooth.run.run import Run
from quantbooth.run.stopping import WHY
from quantbooth.run.subject_run import SubjectRun
from quantbooth.runtime.draws import index_loader
from quantbooth.sampling.image_set import read_requests

__all__ = ["check_job", "evaluate", "job"]

UNUSED = ("logger", "preview", "resources.group_offload")
"""Options of tuning and drawing that decide nothing of scores."""


def evaluate(run: Run) -> list[Path]:
    """Score the pictures of every subject at every evaluated step; return the folders of scores."""
    _require(run)
    return [score(one, step) for one in run.subjects for step in run.steps]


def _require(run: Run) -> None:
    """Refuse what the scorer cannot judge, before any work."""
    run.check("scorer")
    require_judged(run)


def score(one: SubjectRun, step: int) -> Path:
    """Score a subject's pictures after one step."""
    return one.scores(step).get_or_make(partial(write_score, one, step))


def write_score(one: SubjectRun, step: int) -> None:
    """Score a subject's pictures and write the scores."""
    run, artifact = one.run, one.scores(step)
    images = one.images(step).require()
    with artifact.writing(one.settings) as draft:
        requests = read_requests(images)
        untuned = one.images(0).require() if run.protocol.prior_prompts else None
        module = EvaluationModule(run.scorer, one.subject, requests, images, untuned)
        loader = index_loader(len(requests), run.protocol.scored)
        run.trainer(f"scoring {artifact.label}").test(module, loader, verbose=False)
        write_scores(draft.path, record_of(one, step, images), module.rows, module.measured_with)


def record_of(one: SubjectRun, step: int, images: Path) -> Record:
    """Return the record of the scores."""
    run = one.run
    tuned = one.tuned.manifest() if step else None
    quantized = run.quantized_base.manifest() if run.quantized_base else None
    costs = {key: value for key, value in (tuned.measured if tuned else {}).items() if key != WHY}
    costs["base_file_bytes"] = quantized.measured["file_bytes"] if quantized else file_bytes(run.base_folder)
    return Record(
        method=run.served_method if step else "base",
        subject=one.name,
        quant=run.weights_name,
        seed=run.settings["seed"] if step else 0,
        step=step,
        base=run.base_name,
        scorer=run.scorer.name,
        protocol=str(run.protocol),
        costs=costs,
        images=str(images.relative_to(run.store.root)),
        run=tuned.name
        if tuned
        else (quantized.name if quantized else f"{'stored' if run.calibration.stored else 'float'} base"),
    )


def check_job(cfg: DictConfig) -> None:
    """Refuse what the job cannot do, before the first job of a sweep."""
    _require(run_of(cfg))


def job(cfg: DictConfig) -> list[Path]:
    """Run the command on one configuration."""
    return evaluate(run_of(cfg))
