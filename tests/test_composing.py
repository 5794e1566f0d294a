"""What tests compose is what Hydra composes."""

import hydra
import pytest
from hydra.errors import HydraException

from composing import composed
from quantbooth.runtime.config import conf_dir
from quantbooth.runtime.hydra_versions import BASE


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("strategy=s1", "strategy.interval=[354,934]", "seed=3", "tag='a b'"),
        ("base.path=/a/b", "base=folder", "paths.outputs=/c", "tuner=qlora", "tuner.steps=7", "tuner.steps=8"),
        ("subjects=[toy_mug,toy_duck]", "lora=[{path: a, weight: 2}]", "+trainer.gradient_clip_val=0.1"),
        ("calibration=qdiffusion", "calibration.rounding=null", "quant.bits=null", "base.zones.content=[0,10]"),
        ("preset=8gb", "~logger", "protocol.eval_steps=[]"),
    ],
    ids=str,
)
def test_values_are_set_as_hydra_sets_them(words: tuple[str, ...]) -> None:
    with hydra.initialize_config_dir(str(conf_dir()), **BASE):
        expected = hydra.compose("quantbooth", list(words))
    assert composed(*words) == expected


@pytest.mark.parametrize("word", ["tuner.stepz=1", "nothing=1", "tuner.steps=1,2", "tuner.steps=[1"])
def test_a_mistake_raises_what_hydra_raises(word: str) -> None:
    with pytest.raises(HydraException):
        composed("seed=1", word)
