"""Z-Image: conditioning equals that of diffusers' pipeline, layers without rows, and what its files may not say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ZImageTransformer2DModel

from composing import composed
from experiments.random_base import random_base
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.zimage import ZImage
from quantbooth.diffusion.pretrained import as_pipeline, check_base, load_base, save_base
from quantbooth.diffusion.sampler import initial_noise
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.tuners import LoraTuner

TEXTS = ["a red mug", "a duck on the beach under a sky of many stars, in oil"]
MAIN, VAE, INDEX = "transformer/config.json", "vae/config.json", "model_index.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("zimage")
    save_base(random_base("tiny-zimage"), made, torch.float32)
    return made


@pytest.fixture(scope="module")
def zimage(folder: Path) -> Base:
    return load_base(folder, "tiny-zimage")


@pytest.mark.parametrize("side", ["right", "left"])
def test_prompts_are_encoded_as_by_diffusers(zimage: Base, side: str) -> None:
    zimage.tokenizer.padding_side = side
    states, _ = as_pipeline(zimage).encode_prompt([*TEXTS], do_classifier_free_guidance=False)
    found = zimage.encode_prompts(TEXTS)
    zimage.tokenizer.padding_side = "right"
    assert found.tokens.shape == (2, 512, 16)
    for row, mask, wanted in zip(found.tokens, found.extra["mask"], states, strict=True):
        torch.testing.assert_close(row[mask], wanted, rtol=0, atol=1e-6)
        assert not row[~mask].any()
        assert mask.sum() == len(wanted)


def test_a_prediction_is_the_negative_of_what_the_transformer_gives(folder: Path, zimage: Base) -> None:
    """Prompts of other lengths put the patches at other places, in one batch or in several."""
    noise, t, words = initial_noise(TEXTS, [0, 1], zimage.latent_shape), torch.tensor([3, 900]), None
    words = zimage.encode_prompts(TEXTS)
    transformer = ZImageTransformer2DModel.from_pretrained(str(folder), subfolder="transformer")
    states, _ = as_pipeline(zimage).encode_prompt([*TEXTS], do_classifier_free_guidance=False)
    with torch.no_grad():
        found = zimage.predict(noise, t, words)
        for row in range(2):
            (wanted,) = transformer([noise[row][:, None]], 1 - (t[row : row + 1] + 1) / 1000, [states[row]]).sample
            torch.testing.assert_close(found[row], -wanted[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", ["all_x_embedder.*", "cap_embedder.*", "t_embedder.*"])
def test_layers_without_rows_are_refused_by_the_option_that_chooses_layers(
    folder: Path, zimage: Base, layer: str
) -> None:
    given = ("base=zimage", f"base.path={folder}", "base.resolution=64", "sampler=flow_euler")
    others = [name for name in ZImage.float_layers if name != layer]
    cfg = composed(*given, f"quant.exclude=[{','.join(others)}]")
    with pytest.raises(UserError, match=rf"^quant\.exclude must leave out {layer[:-1]}\* for this base"):
        _ = Run(cfg).calibration.layers
    assert Run(composed(*given, "quant.exclude=[t_embedder.*]", "quant.include=[layers.*,t_*]")).calibration.layers
    with pytest.raises(UserError, match=rf"^tuner\.exclude must leave out {layer[:-1]}\* for this base"):
        LoraTuner(8, include=["layers.*", layer])._names(zimage)


def test_learned_rounding_is_refused(folder: Path) -> None:
    given = ("base=zimage", f"base.path={folder}", "base.resolution=64", "sampler=flow_euler")
    with pytest.raises(UserError, match=r"^calibration\.rounding must be null for this base"):
        _ = Run(composed(*given, "calibration=qdiffusion")).calibration.quantized_base


def test_a_prompt_that_is_longer_than_the_encoder_reads_is_refused(zimage: Base) -> None:
    with pytest.raises(UserError, match=r"^the prompt has 600 tokens, .* reads ..., so 'a+' would be lost"):
        zimage.encode_prompts(["a" * 600])


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (MAIN, {"all_patch_size": [2, 4]}, r"all_patch_size must be \[2\] .*, found \[2, 4\]"),
        (MAIN, {"siglip_feat_dim": 16}, "siglip_feat_dim must be null to be supported, found 16"),
        (MAIN, {"in_channels": 64}, "in_channels must be 16 as latent_channels of vae/, found 64"),
        (MAIN, {"cap_feat_dim": 32}, "cap_feat_dim must be 16 as hidden_size of text_encoder/, found 32"),
        (VAE, {"sample_size": 72}, "sample_size must be a multiple of 16 .*, found 72"),
        (INDEX, {"text_encoder": ["transformers", "Qwen3ForCausalLM"]}, "text_encoder must be one of Qwen3Model"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_by_file_and_key(
    folder: Path, tmp_path: Path, file: str, change: dict[str, Any], says: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors")))
    (copy / file).write_text(json.dumps({**json.loads((copy / file).read_text()), **change}))
    with pytest.raises(UserError, match=f"{Path(file).name}.*{says}"):
        check_base(copy, 64, 1000)
