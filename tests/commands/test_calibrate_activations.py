"""quantbooth-calibrate with activations on a tiny untrained base: what it leaves, resumes, says of itself, refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from composing import composed
from quantbooth.calibration.lsq import LSQ_ERRORS
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.tune import tune
from quantbooth.run.degradation import Degradation
from quantbooth.run.models import tuned_base, untuned_base
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.store.manifest import open_artifact
from quantbooth.store.progress import Progress

pytestmark = pytest.mark.chain

Configure = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "sampler.steps=2", "quant=w4a8", "calibration.activations.batch=2"),
    *("calibration.set.count=2", "calibration.set.timesteps=2", "calibration.set.batch=2"),
    "calibration.set.prompts=[a red mug,a duck]",
)
LEARNED = ("calibration=minmax", "calibration.activations.iterations=2")


@pytest.fixture
def configure(base_folder: Path, tmp_path: Path) -> Configure:
    def make(*overrides: str, outputs: str = "out", name: str = "quantbooth") -> DictConfig:
        return composed(
            *QUICK, f"base.path={base_folder}", f"paths.outputs={tmp_path}/{outputs}", *overrides, name=name
        )

    return make


def test_ranges_are_watched_on_the_calibration_set_and_recorded(configure: Configure, tmp_path: Path) -> None:
    cfg = configure("calibration=minmax")
    folder = calibrate(Run(cfg))
    manifest, layers = open_artifact(folder, "quantized_base"), json.loads((folder / "layers.json").read_text())
    (seen,) = (tmp_path / "out" / "store" / "calibration_set").iterdir()
    assert manifest.parents == {"calibration_set": open_artifact(seen, "calibration_set").fingerprint}
    assert manifest.measured["activations"] == "simulated integers of 8 bits, softmax 16 bits"
    assert folder.name.startswith("folder-w4a8-") and {layer["activations"] for layer in layers} == {8}
    attention = json.loads((folder / "attention.json").read_text())
    assert attention and all((record["inputs"], record["softmax"]) == (8, 16) for record in attention)
    assert not (folder / "blocks.json").exists()
    state = load_file(folder / "denoiser.safetensors")
    assert {f"{record['name']}.processor.query.scale" for record in attention} <= state.keys()
    denoiser, x = untuned_base(Run(cfg)).denoiser, torch.randn(2, 24, 8, 8, generator=torch.Generator().manual_seed(0))
    assert denoiser(x[:, : denoiser.config.in_channels], 5, torch.zeros(2, 4, 128)).sample.isfinite().all()


def test_a_killed_run_goes_on_at_its_block_with_the_same_result(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through, write = calibrate(Run(configure(*LEARNED, outputs="through"))), Progress.write

    def killed(self: Progress, part: int, tensors: dict[str, torch.Tensor]) -> None:
        if part == 3:
            raise KeyboardInterrupt
        write(self, part, tensors)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "write", killed)
        calibrate(Run(configure(*LEARNED)))
    (left,) = (tmp_path / "out" / "store" / "unfinished").iterdir()
    assert len(list((left / "activations").iterdir())) == 3
    resumed = calibrate(Run(configure(*LEARNED)))
    one, other = load_file(resumed / "denoiser.safetensors"), load_file(through / "denoiser.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    blocks = json.loads((resumed / "blocks.json").read_text())
    assert blocks == json.loads((through / "blocks.json").read_text())
    assert all({"block", "layers", *LSQ_ERRORS} == set(block) for block in blocks)
    assert resumed.name == through.name and not list((tmp_path / "out" / "store").glob("unfinished/*"))


def test_scales_are_learned_after_rounding_and_errors_lie_side_by_side(configure: Configure) -> None:
    rounding = ("iterations=2", "batch=2")
    given = ("calibration=qdiffusion", *(f"calibration.rounding.{option}" for option in rounding))
    learned = calibrate(Run(configure(*given, "calibration.activations.iterations=1")))
    weights = calibrate(Run(configure(*given, "quant=w4")))
    blocks = json.loads((learned / "blocks.json").read_text())
    assert all({"block", "layers", "nearest", "learned", *LSQ_ERRORS} == set(block) for block in blocks)
    one, other = (load_file(folder / "denoiser.safetensors") for folder in (learned, weights))
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items())
    assert not (weights / "attention.json").exists()
    assert "activations" not in open_artifact(weights, "quantized_base").measured


@pytest.mark.parametrize("calibration", ["minmax", "qdiffusion"])
def test_weight_only_bases_are_decided_by_what_they_were(configure: Configure, calibration: str) -> None:
    """Options of activations came later; where they are not used, names of finished work stay."""
    plain = Run(configure(f"calibration={calibration}", "quant=w4")).quantized_base
    other = Run(configure(f"calibration={calibration}", "quant=w4", "calibration.activations.batch=3")).quantized_base
    assert plain is not None and other is not None
    assert plain.identity == other.identity
    assert plain.identity["quant"].keys() == {"bits", "symmetric", "include", "exclude"}
    expected = {"minmax": {"search"}, "qdiffusion": {"search", "rounding"}}
    assert plain.identity["calibration"].keys() == expected[calibration]
    assert plain.parents.keys() == ({"calibration_set"} if calibration == "qdiffusion" else set())


@pytest.mark.parametrize(
    "change",
    ["quant.act_bits=6", "quant.softmax_bits=null", "calibration.activations.momentum=0.5", "calibration.set.seed=2"],
)
def test_every_choice_about_activations_makes_another_base(configure: Configure, change: str) -> None:
    one, other = Run(configure()).quantized_base, Run(configure(change)).quantized_base
    assert one is not None and other is not None
    assert one.identity != other.identity


def test_scale_sets_are_tuned_on_it(configure: Configure) -> None:
    options = (
        "tuner.steps=1",
        "tuner.train_batch_size=1",
        "prior=none",
        "preview.validation_steps=0",
        "protocol.eval_steps=[1]",
    )
    cfg = configure("calibration=minmax", *options)
    calibrate(Run(cfg))
    tune(Run(cfg))
    base = tuned_base(Run(cfg), 1)[0]
    gains = [numbers for name, numbers in base.denoiser.named_parameters() if name.endswith("gain_out")]
    assert gains and any(not torch.equal(numbers, torch.ones_like(numbers)) for numbers in gains)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("quant.act_bits=null",), r"quant.softmax_bits=16 needs quant.act_bits: choose quant=w4a8"),
        (("quant=w4", "quant.act_bits=8"), r"quant.name must end in a8, .* got 'w4': choose quant=w4a8"),
    ],
)
def test_refusals_come_before_any_work(
    configure: Configure, tmp_path: Path, change: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        calibrate(Run(configure(*change)))
    assert not (tmp_path / "out").exists()


def test_float_weights_with_quantized_activations_are_refused_where_they_are_measured_too(configure: Configure) -> None:
    with pytest.raises(UserError, match=r"quant.act_bits=8 needs quantized weights"):
        Degradation(Run(configure("quant=fp", "quant.act_bits=8", name="degradation")))
