"""A base whose groups of inputs have scales of their own is tuned, drawn and judged as any other."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from composing import composed
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.evaluate import evaluate
from quantbooth.commands.sample import sample
from quantbooth.commands.tune import tune
from quantbooth.run.run import Run

pytestmark = pytest.mark.chain
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "prior=none", "tuner.steps=2"),
    *("preview.validation_steps=0", "protocol.prompt_stride=13"),
)


def test_groups_of_inputs_have_scales_of_their_own_when_asked(base_folder: Path, tmp_path: Path) -> None:
    plain = composed(*QUICK, f"base.path={base_folder}", f"paths.outputs={tmp_path}/out")
    cfg = composed(*QUICK, f"base.path={base_folder}", f"paths.outputs={tmp_path}/out", "quant.group_size=8")
    folder = calibrate(Run(cfg))
    tune(Run(cfg))
    sample(Run(cfg))
    assert all(scores.is_dir() for scores in evaluate(Run(cfg)))
    other = Run(plain).calibration.quantized_base
    assert other is not None and other.path != folder
    tensors = load_file(folder / "denoiser.safetensors")
    records = json.loads((folder / "layers.json").read_text())
    groups = {record["name"]: record["split"] for record in records if record["split"]}
    assert all(set(sizes) == {8} for sizes in groups.values())
    assert {record["name"] for record in records if record["shape"][1] > 8} == set(groups)
    assert all(tensors[f"{name}.scale"].shape[0] == len(sizes) for name, sizes in groups.items())
