"""The same sweep under every launcher makes the same files; only measured seconds and memory differ."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pool_launcher import POOL, write_pool_launcher

QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=1", "prior=none", "tuner.steps=2"),
    *("preview.validation_steps=0", "protocol.prompt_stride=25"),
)
MEASURED = ["seconds", "peak_memory_bytes"]
LAUNCHERS = {
    POOL: None,
    "hydra/launcher=joblib hydra.launcher.n_jobs=2": "hydra_joblib_launcher",
    "hydra/launcher=submitit_local hydra.launcher.timeout_min=10": "hydra_submitit_launcher",
    "hydra/launcher=ray +hydra.launcher.ray.init.num_cpus=2": "hydra_ray_launcher",
}


def sweep(base: Path, folder: Path, outputs: str, *words: str) -> Path:
    """Return the folder of the report of a sweep."""
    typed = [sys.executable, "-m", "quantbooth.programs", "pipeline", "-m", *QUICK, f"base.path={base}", "seed=0,1"]
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    given = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    done = subprocess.run(
        [*typed, f"paths.outputs={outputs}", *words],
        cwd=folder,
        env={**given, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "the page: " in done.stdout
    if not {"hydra/launcher=submitit_local", "hydra/launcher=ray"} & set(words):  # whose jobs write elsewhere
        assert done.stderr.count(": quantizing w4: ") == 1  # shared by the jobs, in whatever process
    (report,) = (folder / outputs / "reports").iterdir()
    return report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("launched")
    write_pool_launcher(made)
    return made


@pytest.fixture(scope="module")
def basic(base_folder: Path, folder: Path) -> Path:
    return sweep(base_folder, folder, "basic")


@pytest.mark.chain
@pytest.mark.parametrize(
    "launcher", [pytest.param(one, marks=pytest.mark.slow if "ray" in one else []) for one in LAUNCHERS]
)
def test_a_launcher_changes_nothing_in_the_tables(base_folder: Path, folder: Path, basic: Path, launcher: str) -> None:
    if (plugin := LAUNCHERS[launcher]) is not None:
        pytest.importorskip(f"hydra_plugins.{plugin}")
        if plugin == "hydra_ray_launcher":
            importlib.import_module("ray")
    report = sweep(base_folder, folder, plugin or "pool", *launcher.split())
    assert report.name == basic.name
    assert (report / "rows.csv").read_bytes() == (basic / "rows.csv").read_bytes()
    ours, theirs = (pd.read_csv(one / "table.csv", dtype=str) for one in (report, basic))
    assert set(MEASURED) <= set(ours)
    pd.testing.assert_frame_equal(ours.drop(columns=MEASURED), theirs.drop(columns=MEASURED))
    stores = [one.parents[1] / "store" for one in (report, basic)]
    files = [{file.relative_to(s): file.read_bytes() for file in s.rglob("*.safetensors")} for s in stores]
    assert files[0] == files[1] and len(files[0]) >= 3
