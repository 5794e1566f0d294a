"""quantbooth-calibrate with learned rounding on a tiny untrained base: what it leaves, resumes, repeats and refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from composing import composed
from quantbooth.calibration.adaround import AdaRoundCalibration
from quantbooth.calibration.block_cache import BlockCache
from quantbooth.calibration.blocks import Block
from quantbooth.calibration.calibration_set import CalibrationSet
from quantbooth.commands.calibrate import calibrate
from quantbooth.run.models import untuned_base
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.store.manifest import open_artifact
from quantbooth.store.progress import Progress

pytestmark = pytest.mark.chain

Configure = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=qdiffusion", "sampler.steps=2", "quant=w2"),
    *("calibration.rounding.iterations=4", "calibration.rounding.batch=2", "calibration.set.count=3"),
    *("calibration.set.timesteps=2", "calibration.set.batch=2", "calibration.set.prompts=[a red mug,a duck]"),
)


@pytest.fixture
def configure(base_folder: Path, tmp_path: Path) -> Configure:
    def make(*overrides: str, outputs: str = "out") -> DictConfig:
        return composed(*QUICK, f"base.path={base_folder}", f"paths.outputs={tmp_path}/{outputs}", *overrides)

    return make


def test_it_leaves_a_quantized_base_and_the_set_it_was_learned_on(configure: Configure, tmp_path: Path) -> None:
    folder = calibrate(Run(configure()))
    manifest, blocks = open_artifact(folder, "quantized_base"), json.loads((folder / "blocks.json").read_text())
    (seen,) = (tmp_path / "out" / "store" / "calibration_set").iterdir()
    assert manifest.parents == {"calibration_set": open_artifact(seen, "calibration_set").fingerprint}
    assert len(CalibrationSet(seen)) == open_artifact(seen, "calibration_set").measured["items"] == 2 * 3 * 2
    assert sum(block["layers"] for block in blocks) == manifest.measured["layers"]
    assert all(min(block["nearest"], block["learned"]) >= 0 for block in blocks)
    kept = [min(block["nearest"], block["learned"]) / block["nearest"] for block in blocks]
    assert manifest.measured["mean_block_error_kept"] == pytest.approx(sum(kept) / len(kept))
    assert not list((tmp_path / "out" / "store").glob("unfinished/*"))


def test_tuning_reads_what_it_leaves(configure: Configure) -> None:
    calibrate(Run(configure()))
    denoiser = untuned_base(Run(configure())).denoiser
    assert sum(type(module).__name__.startswith("Quantized") for module in denoiser.modules()) > 10


def test_a_killed_run_goes_on_at_its_block_with_the_same_result(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through, write = calibrate(Run(configure(outputs="through"))), Progress.write

    def killed(self: Progress, part: int, tensors: dict[str, torch.Tensor]) -> None:
        if part == 3:
            raise KeyboardInterrupt
        write(self, part, tensors)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "write", killed)
        calibrate(Run(configure()))
    (left,) = (tmp_path / "out" / "store" / "unfinished").iterdir()
    assert len(list(left.iterdir())) == 3
    assert not list((tmp_path / "out" / "store" / "quantized_base").glob("*"))
    learned, learn = [], AdaRoundCalibration._learn_block

    def noted(self: AdaRoundCalibration, block: Block, cache: BlockCache, what: str) -> dict[str, torch.Tensor]:
        learned.append(block.name)
        return learn(self, block, cache, what)

    monkeypatch.setattr(AdaRoundCalibration, "_learn_block", noted)
    resumed = calibrate(Run(configure()))
    blocks = [block["block"] for block in json.loads((resumed / "blocks.json").read_text())]
    assert learned == blocks[3:]
    one, other = load_file(resumed / "denoiser.safetensors"), load_file(through / "denoiser.safetensors")
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert (resumed / "blocks.json").read_text() == (through / "blocks.json").read_text()
    assert resumed.name == through.name


def test_what_is_there_is_not_made_again(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = calibrate(Run(configure()))
    monkeypatch.setattr(AdaRoundCalibration, "run", lambda *_: pytest.fail("learned again"))
    monkeypatch.setattr("quantbooth.commands.calibrate.generate_calibration_set", lambda *_: pytest.fail("drawn again"))
    assert calibrate(Run(configure())) == folder


def test_the_set_is_shared_by_widths_and_the_same_again_from_the_same_seed(
    configure: Configure, tmp_path: Path
) -> None:
    for outputs, width in (("one", "w2"), ("one", "w4"), ("other", "w2")):
        calibrate(Run(configure(f"quant={width}", outputs=outputs)))
    (one,), (other,) = ((tmp_path / name / "store" / "calibration_set").iterdir() for name in ("one", "other"))
    assert one.name == other.name
    for file in ("set.json", "texts.safetensors", "states-00000.safetensors", "states-00001.safetensors"):
        assert (one / file).read_bytes() == (other / file).read_bytes()


@pytest.mark.parametrize(
    "change", ["set.seed=2", "set.source=normal", "set.timesteps=1", "set.count=2", "set.prompts=[a duck]"]
)
def test_every_choice_of_the_set_makes_another_set_and_another_base(configure: Configure, change: str) -> None:
    one, other = configure(), configure(f"calibration.{change}")
    sets = [set_spec.artifact.identity for cfg in (one, other) if (set_spec := Run(cfg).calibration.set_spec)]
    assert sets[0] != sets[1]
    bases = [Run(cfg).quantized_base for cfg in (one, other)]
    assert bases[0] is not None
    assert bases[1] is not None
    assert bases[0].identity != bases[1].identity


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("set.prompts=[]", r"calibration.set.prompts must be a list of sentences"),
        ("set.timesteps=3", r"calibration.set.timesteps must be in \[1, 2\]"),
        ("set.source=forward", r"noises true pictures.*choose sampler or normal"),
        ("search.lp_norm=0", r"lp_norm must be positive"),
    ],
)
def test_refusals_come_before_any_work(configure: Configure, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        calibrate(Run(configure(f"calibration.{change}")))
    assert not (tmp_path / "out").exists()
