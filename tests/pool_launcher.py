"""A launcher of Hydra that needs no package: two processes, each of which imports everything anew."""

from pathlib import Path

__all__ = ["POOL", "write_pool_launcher"]

LAUNCHER = """
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from hydra import version
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict


@dataclass
class Config:
    _target_: str = "hydra_plugins.pool.Pool"


ConfigStore.instance().store(group="hydra/launcher", name="pool", node=Config, provider="pool")


def run(number, words, context, config, job):
    version.setbase("1.3")
    setup_globals()
    cfg = context.config_loader.load_sweep_config(config, list(words))
    with open_dict(cfg):
        cfg.hydra.job.id = cfg.hydra.job.num = number
    HydraConfig.instance().set_config(cfg)
    return run_job(
        hydra_context=context, task_function=job, config=cfg,
        job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
    )


class Pool(Launcher):
    def setup(self, *, hydra_context, task_function, config):
        self.given = hydra_context, config, task_function

    def launch(self, job_overrides, initial_job_idx):
        Path(self.given[1].hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            jobs = [
                pool.submit(run, number, words, *self.given)
                for number, words in enumerate(job_overrides, initial_job_idx)
            ]
            return [one.result() for one in jobs]
"""
POOL = "hydra/launcher=pool"


def write_pool_launcher(folder: Path) -> None:
    """Write the plugin into a folder of Python's path."""
    (folder / "hydra_plugins" / "pool").mkdir(parents=True)
    (folder / "hydra_plugins" / "pool" / "__init__.py").write_text(LAUNCHER)
