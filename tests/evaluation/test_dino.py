"""DINO and DINOv2 with random weights in their true formats: equal to transformers by hand, whole, and told by name."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoModel

from quantbooth.evaluation.encoders import DinoEncoder
from quantbooth.evaluation.folders import digest
from quantbooth.evaluation.scores import clip_i
from quantbooth.runtime.errors import UserError

Write = Callable[[str], Path]


def pictures(count: int, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, 48, 48, generator=torch.Generator().manual_seed(seed))


def copy(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place / "copy"))


@pytest.mark.parametrize("name", ["dino", "dinov2"])
def test_scores_equal_those_of_transformers_called_by_hand(network: Write, name: str) -> None:
    """Saved pictures one by one through processor and model, the class token, normalized: nothing of ours."""
    folder = network(name)
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    photos = [Image.fromarray((one * 255).round().byte().permute(1, 2, 0).numpy()) for one in pictures(6)]
    with torch.no_grad():
        tokens = [model(**processor(photo, return_tensors="pt")).last_hidden_state[0, 0] for photo in photos]
    features = [normalize(token, dim=0) for token in tokens]
    encoder = DinoEncoder(folder)
    found = encoder.images(pictures(6))
    torch.testing.assert_close(found, torch.stack(features), atol=1e-6, rtol=0)
    expected = torch.stack([sum(one @ other for other in features[:2]) / 2 for one in features])  # type: ignore[misc]
    torch.testing.assert_close(clip_i(found, encoder.images(pictures(6)[:2])), expected, atol=1e-6, rtol=0)
    assert found.std() > 0.01  # features of different pictures differ


def test_names_tell_architecture_weights_and_preprocessing(network: Write, tmp_path: Path) -> None:
    names = {name: DinoEncoder(network(name)).name for name in ("dino", "dinov2")}
    assert names["dino"].startswith("dino sha256:") and names["dino"].endswith(" 32px bicubic")
    assert names["dinov2"].startswith("dinov2 sha256:") and names["dinov2"].endswith(" 28px bicubic")
    moved = copy(network("dino"), tmp_path)
    assert DinoEncoder(moved).name == names["dino"]  # the place does not count
    weights = load_file(moved / "model.safetensors")
    weights["layernorm.bias"] += 1
    save_file(weights, moved / "model.safetensors", {"format": "pt"})
    assert DinoEncoder(moved).name != names["dino"]


def test_the_digest_is_the_beginning_of_sha256_over_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    contents = {"a/b.json": b"{}", "c.safetensors": b"weights", "d.txt": b"words"}
    for name, content in {**contents, "run.py": b"code", "e.bin": b"pickle"}.items():
        (tmp_path / name).write_bytes(content)
    lines = "".join(f"{name} {hashlib.sha256(content).hexdigest()}\n" for name, content in contents.items())
    assert digest(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()[:12]


def test_another_mean_is_another_name(network: Write, tmp_path: Path) -> None:
    moved = copy(network("dino"), tmp_path)
    file = moved / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.5, 0.5, 0.5]}))
    assert DinoEncoder(moved).name != DinoEncoder(network("dino")).name


def test_nothing_learns_and_pictures_of_another_range_are_refused(network: Write) -> None:
    encoder = DinoEncoder(network("dino"))
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.model.training
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        encoder.images(pictures(1) + 1)


def test_a_folder_that_is_not_there_or_not_a_dino_is_told(network: Write, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"/none must be a folder that transformers' save_pretrained wrote, found nothing$"
    ):
        DinoEncoder(tmp_path / "none")
    with pytest.raises(UserError, match=r"found a folder without config\.json$"):
        DinoEncoder(tmp_path)
    with pytest.raises(UserError, match=r"must hold a DINO \(vit\) or a DINOv2 \(dinov2\), found a clipseg$"):
        DinoEncoder(network("clipseg"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json must be JSON, found: "):
        DinoEncoder(tmp_path)


def test_pickles_are_not_read(network: Write, tmp_path: Path) -> None:
    moved = copy(network("dino"), tmp_path)
    torch.save(load_file(moved / "model.safetensors"), moved / "pytorch_model.bin")
    (moved / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no safetensors; pickles .* not read"):
        DinoEncoder(moved)


@pytest.mark.parametrize("name", ["dino", "dinov2"])
def test_weights_of_another_shape_are_told(network: Write, tmp_path: Path, name: str) -> None:
    moved = copy(network(name), tmp_path)
    weights = load_file(moved / "model.safetensors")
    weights["layernorm.weight"] = torch.zeros(3)
    save_file(weights, moved / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"layernorm\.weight"):
        DinoEncoder(moved)


@pytest.mark.parametrize(
    ("lost", "added", "told"),
    [
        ("layernorm.weight", None, r"lacks layernorm\.weight \(1 such\); save the whole network, and it alone$"),
        (None, "classifier.weight", r"has more than a network of its kind: classifier\.weight \(1 such\)"),
    ],
)
def test_weights_that_are_missing_or_too_many_are_told(
    network: Write, tmp_path: Path, lost: str | None, added: str | None, told: str
) -> None:
    """transformers would fill the first with random numbers and pass over the second."""
    moved = copy(network("dino"), tmp_path)
    weights = load_file(moved / "model.safetensors")
    if lost:
        del weights[lost]
    if added:
        weights[added] = torch.zeros(3)
    save_file(weights, moved / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=told):
        DinoEncoder(moved)


def test_a_damaged_file_and_missing_preprocessing_are_told(network: Write, tmp_path: Path) -> None:
    moved = copy(network("dino"), tmp_path)
    (moved / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"must hold preprocessing \(and tokenizer\) too: "):
        DinoEncoder(moved)
    (moved / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"/copy cannot be read: "):
        DinoEncoder(moved)
