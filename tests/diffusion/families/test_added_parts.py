"""Gains of normalizations and shifts of biases on transformers: a set is a float network, or the option is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from composing import composed
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import load_base
from quantbooth.quant.merging import merged_state
from quantbooth.quant.scale_sets import norms_of
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import quantize_
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.tuners import ScaleTuner

NAMES = ["sd3", "klein", "flux1", "qwen-image", "chroma", "zimage", "sana"]
TEXTS = ["a red mug", "a duck on the beach"]
T = torch.tensor([300, 700])


def predicted(base: Base) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return base.predict(torch.randn(2, *base.latent_shape, generator=draw), T, base.encode_prompts(TEXTS))


def gradient(norm: nn.Module) -> Tensor:
    found = norm.get_parameter("gain_out").grad
    assert found is not None
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.chain
def test_each_sample_has_the_norms_of_its_set_as_a_float_network_with_these_weights(
    name: str, written: Callable[[str], Path]
) -> None:
    folder, selection = written(f"tiny-{name}"), SetSelection()
    base, plain = load_base(folder, "base"), load_base(folder, "base")
    quantize_(base.denoiser, 8, exclude=base.float_layers)
    learning = ScaleTuner(biases=True, norms=True).prepare_(base, 2, selection)
    norms = norms_of(base.denoiser, base.family.rowless_layers)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for numbers in (each for kind in learning.values() for each in kind):
            numbers.add_(0.2 * torch.randn(numbers.shape, generator=draw))
    selection.choose(torch.tensor([2, 1]))
    found = predicted(base)
    found.square().mean().backward()
    reached = [name for name, norm in norms.items() if gradient(norm).abs().min(1)[0].max() > 0]
    assert len(reached) > len(norms) / 2  # the last block of some does not use its words
    for row, number in enumerate([2, 1]):
        plain.denoiser.load_state_dict(merged_state(base.denoiser, number))
        torch.testing.assert_close(found[row], predicted(plain)[row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "base", "sampler", "tuner", "message"),
    [
        (
            "pixart",
            "pixart_sigma",
            "ddim",
            "tuner.norms=true",
            "^tuner.norms=true needs normalizations with weights, .* has none",
        ),
        (
            "klein",
            "klein_4b",
            "flow_euler",
            "tuner.biases=true",
            "^tuner.biases=true shifts biases, and no quantized layer of .* has",
        ),
    ],
)
def test_parts_that_a_base_does_not_have_are_refused_before_work(
    name: str, base: str, sampler: str, tuner: str, message: str, written: Callable[[str], Path], tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    words = [f"base={base}", f"base.path={written(f'tiny-{name}')}", "base.resolution=64", f"sampler={sampler}"]
    words += ["prior=none", "subject=folder", f"subject.path={tmp_path}", "subject.class_word=dog", "subject.live=true"]
    with pytest.raises(UserError, match=message):
        _ = Run(composed(*words, tuner)).tuner
    assert Run(composed(*words, tuner.replace("true", "false"))).tuner.name == "scales"
