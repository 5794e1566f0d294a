"""quantbooth: the whole chain for one setting, or with -m for each of a sweep; finished work is never repeated.

quantbooth subject=toy_mug strategy=s2
quantbooth -m subject=toy_mug,toy_duck strategy=baseline,s1,s2 seed=0,1
"""

import json
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from quantbooth.calibrate import calibrate
from quantbooth.cli import command
from quantbooth.evaluate import evaluate
from quantbooth.report import report
from quantbooth.sample import sample
from quantbooth.tune import tune

__all__ = ["ReportOnSweep", "main", "run"]

SCORES = "scores.json"


def run(cfg: DictConfig) -> list[Path]:
    """Calibrate, tune, sample, evaluate, report; return the folders of scores."""
    if cfg.quant.bits is not None:
        calibrate(cfg)
    tune(cfg)
    sample(cfg)
    scores = evaluate(cfg)
    hydra = HydraConfig.get()
    (Path(hydra.runtime.output_dir) / SCORES).write_text(json.dumps([str(path) for path in scores]))
    if hydra.mode != RunMode.MULTIRUN:
        report(cfg, scores)
    return scores


class ReportOnSweep(Callback):
    """Reports over all jobs of a sweep when the last one has ended; jobs that failed are simply not there."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        lists = sorted(Path(config.hydra.sweep.dir).glob(f"*/{SCORES}"))
        scores = [Path(path) for file in lists for path in json.loads(file.read_text())]
        if scores:
            report(config, list(dict.fromkeys(scores)))


main = command(run, "quantbooth")

if __name__ == "__main__":
    main()
