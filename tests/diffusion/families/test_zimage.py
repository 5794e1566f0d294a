"""Z-Image: conditioning equals that of diffusers' pipeline, layers without rows."""

from pathlib import Path

import pytest
import torch
from diffusers import ZImageTransformer2DModel

from composing import composed
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.zimage import ZImage
from quantbooth.diffusion.pretrained import as_pipeline
from quantbooth.diffusion.sampler import initial_noise
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.tuners import LoraTuner

NAME = "tiny-zimage"
TEXTS = ["a red mug", "a duck on the beach under a sky of many stars, in oil"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_prompts_are_encoded_as_by_diffusers(tiny: Base, side: str) -> None:
    tiny.tokenizer.padding_side = side
    states, _ = as_pipeline(tiny).encode_prompt([*TEXTS], do_classifier_free_guidance=False)
    found = tiny.encode_prompts(TEXTS)
    tiny.tokenizer.padding_side = "right"
    assert found.tokens.shape == (2, 512, 16)
    for row, mask, wanted in zip(found.tokens, found.extra["mask"], states, strict=True):
        torch.testing.assert_close(row[mask], wanted, rtol=0, atol=1e-6)
        assert not row[~mask].any()
        assert mask.sum() == len(wanted)


def test_a_prediction_is_the_negative_of_what_the_transformer_gives(folder: Path, tiny: Base) -> None:
    """Prompts of other lengths put the patches at other places, in one batch or in several."""
    noise, t, words = initial_noise(TEXTS, [0, 1], tiny.latent_shape), torch.tensor([3, 900]), None
    words = tiny.encode_prompts(TEXTS)
    transformer = ZImageTransformer2DModel.from_pretrained(str(folder), subfolder="transformer")
    states, _ = as_pipeline(tiny).encode_prompt([*TEXTS], do_classifier_free_guidance=False)
    with torch.no_grad():
        found = tiny.predict(noise, t, words)
        for row in range(2):
            (wanted,) = transformer([noise[row][:, None]], 1 - (t[row : row + 1] + 1) / 1000, [states[row]]).sample
            torch.testing.assert_close(found[row], -wanted[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", ["all_x_embedder.*", "cap_embedder.*", "t_embedder.*"])
def test_layers_without_rows_are_refused_by_the_option_that_chooses_layers(
    folder: Path, tiny: Base, layer: str
) -> None:
    given = ("base=zimage", f"base.path={folder}", "base.resolution=64", "sampler=flow_euler")
    others = [name for name in ZImage.float_layers if name != layer]
    cfg = composed(*given, f"quant.exclude=[{','.join(others)}]")
    with pytest.raises(UserError, match=rf"^quant\.exclude must leave out {layer[:-1]}\* for this base"):
        _ = Run(cfg).calibration.layers
    assert Run(composed(*given, "quant.exclude=[t_embedder.*]", "quant.include=[layers.*,t_*]")).calibration.layers
    with pytest.raises(UserError, match=rf"^tuner\.exclude must leave out {layer[:-1]}\* for this base"):
        LoraTuner(8, include=["layers.*", layer])._names(tiny)


def test_learned_rounding_is_refused(folder: Path) -> None:
    given = ("base=zimage", f"base.path={folder}", "base.resolution=64", "sampler=flow_euler")
    with pytest.raises(UserError, match=r"^calibration\.rounding must be null for this base"):
        _ = Run(composed(*given, "calibration=qdiffusion")).calibration.quantized_base


def test_a_prompt_that_is_longer_than_the_encoder_reads_is_refused(tiny: Base) -> None:
    with pytest.raises(UserError, match=r"^the prompt has 600 tokens, .* reads ..., so 'a+' would be lost"):
        tiny.encode_prompts(["a" * 600])
