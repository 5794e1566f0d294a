"""quantbooth: the whole chain for one setting, or with -m for each of a sweep; finished work is never repeated.

quantbooth subject=toy_mug strategy=s2
quantbooth -m subject=toy_mug,toy_duck strategy=baseline,s1,s2 seed=0,1
quantbooth subject=[toy_mug,toy_duck] tuner.together=true
"""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from quantbooth.calibrate import calibrate
from quantbooth.cli import command
from quantbooth.errors import UserError
from quantbooth.evaluate import evaluate_all
from quantbooth.plan import Plan
from quantbooth.report import report
from quantbooth.sample import sample_all
from quantbooth.tune import tune_all

__all__ = ["main", "report_all", "run", "run_all"]


def run(cfg: DictConfig) -> list[Path]:
    """Calibrate, tune, sample, evaluate one setting; return the folders of scores."""
    return run_all([cfg])


def run_all(cfgs: Sequence[DictConfig]) -> list[Path]:
    """The same for several subjects that are tuned and drawn together."""
    for cfg in cfgs:
        if cfg.prompt is not None:
            raise UserError("prompt is drawn by quantbooth-sample, after tuning; leave it out here")
        Plan(cfg).requests()  # a mistake about a subject ends it here, before any work
    if cfgs[0].quant.bits is not None:
        calibrate(cfgs[0])
    tune_all(cfgs)
    sample_all(cfgs)
    return evaluate_all(cfgs)


def report_all(jobs: list[tuple[DictConfig, list[Path]]]) -> None:
    """One report over every setting that finished; the untuned base, which settings share, counts once."""
    scores = dict.fromkeys(path for _, paths in jobs for path in paths)
    report(jobs[-1][0], list(scores))


main = command(run, "quantbooth", conclude=report_all, together=run_all)

if __name__ == "__main__":
    main()
