"""The open_clip encoder on a tiny model with random weights: unit features, preprocessing, refusals."""

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from quantbooth.evaluation.encoders import Encoder, OpenClipEncoder, check_pictures
from quantbooth.evaluation.scores import clip_i, clip_t
from quantbooth.runtime.errors import UserError

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published model's folder, as open_clip reads it: configuration and weights."""
    path = tmp_path_factory.mktemp("tiny_clip")
    config = {"model_cfg": TINY, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**TINY).state_dict(), path / "open_clip_model.safetensors")
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> OpenClipEncoder:
    return OpenClipEncoder(f"local-dir:{folder}")


def _pictures(count: int, size: int = 48) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_features_have_length_one_and_share_a_space(encoder: OpenClipEncoder) -> None:
    images, texts = encoder.images(_pictures(3)), encoder.texts(["a mug", "a photo of a duck"])
    assert images.shape == (3, 16) and texts.shape == (2, 16)
    torch.testing.assert_close(torch.cat([images, texts]).norm(dim=1), torch.ones(5))


def test_pictures_go_through_the_models_own_preprocessing(encoder: OpenClipEncoder) -> None:
    eighths = (_pictures(2, 32) * 255).round() / 255
    expected = encoder.model.encode_image((eighths - 0.5) / 0.5, normalize=True)
    torch.testing.assert_close(encoder.images(eighths), expected.detach(), atol=1e-5, rtol=1e-5)


def test_scores_equal_those_of_open_clip_called_by_hand(folder: Path, encoder: OpenClipEncoder) -> None:
    """Saved pictures, their own transform, their own tokenizer, cosines: nothing of ours."""
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    pictures, sentences = _pictures(5), ["a mug", "a red mug at sea", "a duck", "a mug", "a fish"]
    photos = [Image.fromarray((one * 255).round().byte().permute(1, 2, 0).numpy()) for one in pictures]
    with torch.no_grad():
        images = [normalize(model.encode_image(transform(photo)[None]), dim=1)[0] for photo in photos]
        texts = [normalize(model.encode_text(tokenizer([sentence])), dim=1)[0] for sentence in sentences]
    expected_t = torch.stack([image @ text for image, text in zip(images, texts, strict=True)])
    expected_i = torch.stack([sum(image @ other for other in images[:3]) / 3 for image in images])  # type: ignore[misc]
    found = encoder.images(pictures)
    torch.testing.assert_close(clip_t(found, encoder.texts(sentences)), expected_t, atol=1e-6, rtol=0)
    torch.testing.assert_close(clip_i(found, encoder.images(pictures[:3])), expected_i, atol=1e-6, rtol=0)


def test_name_says_preprocessing_and_activation(encoder: OpenClipEncoder) -> None:
    assert "bicubic" in encoder.name and encoder.name.endswith(" GELU") and "32" in encoder.name


def test_two_folders_at_one_place_have_two_names(folder: Path, tmp_path: Path) -> None:
    place, names = tmp_path / "clip", []
    for factor in (1, 1, 2):
        shutil.copytree(folder, place, dirs_exist_ok=True)
        weights = load_file(place / "open_clip_model.safetensors")
        save_file(weights | {"visual.proj": factor * weights["visual.proj"]}, place / "open_clip_model.safetensors")
        names.append(OpenClipEncoder(f"local-dir:{place}", "openai").name)
    assert names[0] == names[1] != names[2]
    assert str(tmp_path) not in names[0]


@pytest.mark.parametrize("kind", ["open_clip_pytorch_model.bin", "model.pth", "other.pt"])
def test_a_folder_with_pickles_is_refused_before_one_is_read(folder: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(folder, tmp_path / "clip")
    (tmp_path / "clip" / kind).write_bytes(b"never read")
    with pytest.raises(UserError, match=f"clip has {kind}; pickles may run code and are not read"):
        OpenClipEncoder(f"local-dir:{tmp_path / 'clip'}")


def test_a_weight_file_beside_a_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "more.safetensors").write_bytes(b"never read")
    with pytest.raises(UserError, match=r"more\.safetensors would not be read.*leave out one of them"):
        OpenClipEncoder(f"local-dir:{folder}", str(tmp_path / "more.safetensors"))


def test_weights_are_frozen(encoder: OpenClipEncoder) -> None:
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_a_prompt_that_would_be_cut_is_refused(encoder: OpenClipEncoder) -> None:
    encoder.texts(["mug " * 14])
    with pytest.raises(UserError, match="15 tokens.* the scorer reads 14, so 'mug' would be lost"):
        encoder.texts(["mug " * 15])


def test_a_folder_without_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text((folder / "open_clip_config.json").read_text())
    with pytest.raises(UserError, match="cannot be loaded"):
        OpenClipEncoder(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "weight", "told"),
    [
        ("visual.proj", torch.zeros(3, 3), r"visual\.proj.*size mismatch|size mismatch.*visual\.proj"),
        ("visual.proj", None, r"[Mm]issing.*visual\.proj"),
        ("visual.more", torch.zeros(3), r"[Uu]nexpected.*visual\.more"),
        ("ln_final.bias", torch.full((16,), float("nan")), r"ln_final\.bias must be finite"),
    ],
)
def test_weights_that_do_not_fit_their_configuration_are_refused_by_name(
    folder: Path, tmp_path: Path, name: str, weight: Tensor | None, told: str
) -> None:
    (tmp_path / "open_clip_config.json").write_text((folder / "open_clip_config.json").read_text())
    weights = load_file(folder / "open_clip_model.safetensors") | {name: weight}
    kept = {key: value.clone() for key, value in weights.items() if value is not None}
    save_file(kept, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(UserError, match=told) as caught:
        OpenClipEncoder(f"local-dir:{tmp_path}")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_model_and_unknown_weights_are_refused() -> None:
    for model, weights in (("no-such-model", "openai"), ("ViT-B-32", "no-such-tag"), ("ViT-B-32", None)):
        with pytest.raises(UserError, match="cannot be loaded"):
            OpenClipEncoder(model, weights)


def test_weights_trained_with_another_activation_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"never read")
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *_, **__: str(weights))
    with pytest.raises(UserError, match="take ViT-B-32-quickgelu instead"):
        OpenClipEncoder("ViT-B-32", "openai")


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (torch.full((1, 3, 4, 4), 1.5), r"values in \[0, 1\], got \[1.5, 1.5\]"),
        (torch.full((1, 3, 4, 4), float("nan")), r"values in \[0, 1\]"),
        (torch.zeros(1, 4, 4, 3), "must be float"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "must be float"),
    ],
)
def test_pictures_of_another_range_shape_or_type_are_refused(pictures: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_pictures(pictures)


def test_the_abstract_encoder_cannot_be_made() -> None:
    with pytest.raises(TypeError):
        Encoder()  # type: ignore[abstract]
