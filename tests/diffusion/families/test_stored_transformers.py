"""Transformers that another package quantized, of each family: gains around their layers, all of which learn."""

from pathlib import Path

import pytest
import torch

from experiments.random_base import random_base
from quantbooth.diffusion.pretrained import load_base
from quantbooth.diffusion.sampler import initial_noise
from quantbooth.quant import scale_sets
from quantbooth.quant.scale_sets import Parts
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.stored import stored_layers
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.tuners import ScaleTuner
from stored_bases import write_stored

TEXTS = ["a red mug", "a duck on the beach"]


@pytest.mark.parametrize("kind", ["nf4", "torchao_int8", "sdnq", "gguf"])
@pytest.mark.parametrize("name", ["tiny-sd3", "tiny-flux1", "tiny-klein", "tiny-pixart"])
@pytest.mark.chain
def test_gains_of_1_give_the_stored_transformer_and_all_of_them_learn(name: str, kind: str, tmp_path: Path) -> None:
    folder = write_stored(tmp_path, kind, random_base(name))
    if (name, kind) == ("tiny-pixart", "gguf"):
        with pytest.raises(UserError, match="reads no GGUF of a PixArtTransformer2DModel"):
            load_base(folder, name)
        return
    base = load_base(folder, name)
    noise, t = initial_noise(TEXTS, [0, 1], base.latent_shape), torch.tensor([100.0, 700.0])
    conditioning = base.encode_prompts(TEXTS)
    with torch.no_grad():
        alone = base.predict(noise, t, conditioning)
    assert alone.isfinite().all()
    selection = scale_sets.attach_(base.denoiser, 1, None, Parts(inputs=True))
    selection.choose(torch.tensor([1, 1]))
    tuned = base.predict(noise, t, conditioning)
    assert torch.equal(tuned, alone)
    tuned.square().sum().backward()
    learned = [one for one in base.denoiser.parameters() if one.requires_grad]
    assert len(learned) >= 10
    assert all(one.grad is not None and one.grad.isfinite().all() for one in learned)


@pytest.mark.parametrize("kind", ["nf4", "torchao_int8", "gguf"])
def test_layers_that_mix_samples_into_rows_have_no_gains(kind: str, tmp_path: Path) -> None:
    base = load_base(write_stored(tmp_path, kind, random_base("tiny-zimage")), "base")
    learning = ScaleTuner(inputs=True).prepare_(base, 2, selection := SetSelection())
    sets = scale_sets.read(base.denoiser)
    assert not [name for name in sets if "embedder" in name]
    assert {name for name, _ in stored_layers(base.denoiser) if "embedder" in name}
    selection.choose(torch.tensor([1, 2]))
    noise, t = initial_noise(TEXTS, [0, 1], base.latent_shape), torch.tensor([100.0, 700.0])
    base.predict(noise, t, base.encode_prompts(TEXTS)).square().sum().backward()
    assert all(one.grad is not None for one in learning["gains"])
    ScaleTuner(inputs=True).load_(again := load_base(tmp_path, "base"), sets, 2, SetSelection())
    assert scale_sets.read(again.denoiser).keys() == sets.keys()
