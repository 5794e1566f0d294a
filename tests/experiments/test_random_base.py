"""Random bases: true architectures and CLIP's own tokens, the same from the same seed."""

import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from open_clip import get_tokenizer

from experiments.random_base import ARCHITECTURES, clip_tokenizer, main, random_base


@pytest.mark.parametrize("name", [name for name, parts in ARCHITECTURES.items() if parts["weights"]])
def test_unets_have_the_published_number_of_weights(name: str) -> None:
    with torch.device("meta"):
        denoiser = UNet2DConditionModel.from_config(ARCHITECTURES[name]["denoiser"])
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == ARCHITECTURES[name]["weights"]


def test_tokens_are_those_of_clip() -> None:
    texts = ["a photo of a sks dog", "The Eiffel Tower, at 7 o'clock!", ""]
    ours = clip_tokenizer()(texts, padding="max_length", max_length=77).input_ids
    theirs = get_tokenizer("ViT-L-14")(texts)
    for mine, open_clips in zip(ours, theirs.tolist(), strict=True):
        end = mine.index(49407) + 1
        assert mine[:end] == open_clips[:end]
        assert set(mine[end:]) <= {49407}


def test_a_seed_decides_all_weights() -> None:
    one, same, other = (random_base("tiny", seed) for seed in (0, 0, 1))
    for left, right, third in zip(one.networks, same.networks, other.networks, strict=True):
        assert all(torch.equal(tensor, right.state_dict()[name]) for name, tensor in left.state_dict().items())
        assert not all(torch.equal(tensor, third.state_dict()[name]) for name, tensor in left.state_dict().items())


def test_the_program_writes_a_folder_and_never_over_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["random_base", "--model", "tiny", "--folder", str(tmp_path / "x")])
    assert main() == 0
    assert UNet2DConditionModel.from_pretrained(str(tmp_path / "x"), subfolder="unet").config.sample_size == 8
    assert main() == 2
    assert "is not empty; choose another --folder" in capsys.readouterr().err
