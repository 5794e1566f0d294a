"""Other commands on a device: a probe, degradation, exports; numbers of the CPU, and a base of each family."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import DictConfig
from safetensors.torch import load_file

from composing import composed
from pretend import Looks, on_device
from quantbooth.commands import degradation, probe
from quantbooth.commands.export import export
from quantbooth.commands.tune import tune
from quantbooth.degradation.files import read_degradation
from quantbooth.probe.files import read_probe
from quantbooth.run.run import Run
from quantbooth.runtime.config import TRUST

pytestmark = [pytest.mark.chain, pytest.mark.device]

Configure = Callable[..., DictConfig]
EXPORTS = {
    "zones": "strategy=s2 tuner=scales_shifts tuner.identifier=true",
    "merged": "strategy=s2 tuner=scales_in_out export.merged=true",
    "LoRA": "method=lora export.format=lora",
    "QLoRA": "method=qlora strategy=s2",
    "zero points": "method=qa_lora tuner.group_size=4 export.format=quantized",
    "file": "tuner=scales export.format=safetensors",
}


@pytest.mark.parametrize("words", EXPORTS.values(), ids=list(EXPORTS))
def test_exports_are_those_of_the_cpu(configure: Configure, tmp_path: Path, words: str) -> None:
    """Of the same tuned parameters."""
    options = (*words.split(), "prior=none", "tuner.learning_rate=0.1")
    with on_device():
        tune(Run(configure(*options)))
        found = export(Run(configure(*options, f"export.folder={tmp_path}/there")))
    expected = export(Run(configure(*options, f"export.folder={tmp_path}/here")))
    files = sorted(file.relative_to(expected) for file in expected.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(found) for file in found.rglob("*") if file.is_file())
    for file in files:
        if file.suffix == ".safetensors":
            one, other = load_file(found / file), load_file(expected / file)
            assert one.keys() == other.keys()
            assert all(one[name].equal(other[name]) for name in one)
        else:
            assert (found / file).read_text() == (expected / file).read_text().replace("/here", "/there")


PROBE = "probe.every=500 probe.grid=3 probe.batch=100 probe.seed=5"
DEGRADATION = "quant=w4 degradation.batch=100 degradation.shown=2"
MEASURED = {  # a command, what reads its tables, options, and those of twice as many pictures
    "probe": (probe.job, read_probe, PROBE, "probe.pairs=2 probe.questions=2", "probe.pairs=4 probe.questions=4"),
    "degradation": (
        *(lambda cfg: degradation.job(cfg)[-1], read_degradation, DEGRADATION),
        *("degradation.pictures=2 degradation.predictions=2", "degradation.pictures=4 degradation.predictions=4"),
    ),
}


@pytest.mark.parametrize("name", MEASURED)
def test_tables_are_those_of_the_cpu(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Twice as many pictures in one batch do not make it wait more often."""
    monkeypatch.setenv(TRUST, "pathlib")
    job, read, options, few, many = MEASURED[name]
    base = ("+base.path=x", "base.folder._target_=pathlib.Path", f"+base.folder._args_=[{base_folder}]")

    def tables(place: str, more: str) -> dict[str, pd.DataFrame]:
        words = (*options.split(), *more.split(), "sampler.steps=2", "calibration=minmax")
        found = read(job(composed(*base, *words, f"paths.outputs={tmp_path}/{place}", name=name)))
        return {key: value for key, value in vars(found).items() if isinstance(value, pd.DataFrame)}

    counts = []
    for place, more in (("few", few), ("there", many)):
        with on_device() as looks:
            found = tables(place, more)
            counts.append(Looks(looks))
    expected = tables("here", many)
    assert found.keys() == expected.keys()
    for key in found:
        pd.testing.assert_frame_equal(found[key], expected[key], atol=1e-5)
    assert counts[0] == counts[1]
