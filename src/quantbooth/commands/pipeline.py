"""quantbooth: calibrate, tune, sample and evaluate one setting, or with -m a sweep; finished work is reused.

quantbooth subject=toy_mug strategy=s2
quantbooth -m subject=toy_mug,toy_duck strategy=baseline,s1,s2 seed=0,1
quantbooth subjects=[toy_mug,toy_duck]
quantbooth -m search=optuna 'tuner.learning_rate=tag(log,interval(0.005,0.05))'    # Optuna chooses values by two scores
quantbooth -m strategy=baseline,s1,s2 dry_run=true    # what would be computed, what is found, what jobs share
"""

from pathlib import Path

from omegaconf import DictConfig

from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.evaluate import evaluate
from quantbooth.commands.report import report
from quantbooth.commands.sample import sample
from quantbooth.commands.tune import require_tuning, tune
from quantbooth.run.experts import not_drawn
from quantbooth.run.judges import require_judged
from quantbooth.run.objectives import objective_values, require_objectives
from quantbooth.run.run import Run
from quantbooth.run.tracking import track_scores
from quantbooth.run.work import show_work
from quantbooth.runtime.errors import UserError
from quantbooth.store.files import SHORT, fingerprint

__all__ = ["check", "check_job", "conclude", "job", "value"]


def job(cfg: DictConfig) -> list[Path]:
    """Calibrate, tune, sample, evaluate one setting; return the folders of scores."""
    chain = _asked(cfg)
    check(chain)
    if cfg.dry_run:
        return []
    with chain.tracking():
        if chain.calibration.bits is not None:
            calibrate(chain)
        tune(chain)
        sample(chain)
        folders = evaluate(chain)
        track_scores(chain, folders)
    return folders


def value(cfg: DictConfig, folders: list[Path]) -> float | tuple[float, ...] | list[Path]:
    """Return what a search maximizes: the number of one objective, a tuple of several in their order, else folders."""
    if not cfg.objectives or not folders:
        return folders
    values = objective_values(cfg.objectives, folders)
    return values[0] if len(values) == 1 else values


def check_job(cfg: DictConfig) -> dict[str, object]:
    """Refuse what the job cannot do, before the first job of a sweep; return what one report needs alike."""
    chain = _asked(cfg)
    _require(chain)
    alike = {"base": chain.base_name, "scorer": chain.scorer.name, "protocol": str(chain.protocol)}
    for one in chain.subjects:
        asked = [(request.prompt, request.seed) for request in one.requests()]
        alike[f"choice of prompts and seeds for {one.name}"] = fingerprint({"asked": asked})[:SHORT]
    alike |= {f"list of report.{name}": str(list(cfg.report[name])) for name in ("notes", "compare_with")}
    return {**alike, "report.folder": cfg.report.folder}


def _asked(cfg: DictConfig) -> Run:
    """Return the run of options that the chain uses."""
    for option in ("prompt", "scale_sets"):
        if cfg[option] is not None:
            raise UserError(f"{option} is an option of quantbooth-sample, after tuning; leave it out here")
    if cfg.report.scores:
        raise UserError("report.scores is an option of quantbooth-report, for finished scores; leave it out here")
    return Run(cfg)


def check(chain: Run) -> None:
    """Raise the UserError of any step of the chain before any work."""
    _require(chain)
    if not all(one.images(step).find() for one in chain.subjects for step in chain.steps):
        vars(chain).pop("scorer", None)  # its memory is for tuning; it is read again to score


def _require(chain: Run) -> None:
    require_tuning(chain)
    chain.check("protocol", "loras", "subjects", "quantized_base")
    chain.strength.of(chain.plan, chain.tuner)
    list(not_drawn(chain.plan, chain.strength, chain.timesteps))
    require_judged(chain)
    require_objectives(chain)


def conclude(jobs: list[tuple[DictConfig, list[Path]]]) -> None:
    """Write one report over all finished settings, in which the untuned base counts once; or say what is to compute."""
    if jobs[0][0].dry_run:
        show_work([Run(cfg) for cfg, _ in jobs])
        return
    scores = dict.fromkeys(path for _, paths in jobs for path in paths)
    report(jobs[-1][0], list(scores))
