"""Scores: what features say about prompt fidelity, subject fidelity, diversity and drift, one number per picture."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from quantbooth.metrics.encoders import Encoder
from quantbooth.metrics.locators import Locator, boxes_of_masks, cut


def clip_t(images: Float[Tensor, "b d"], texts: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
    """CLIP-T: cosine of each picture with its own prompt, stated without the identifier token."""
    _check_unit(images, texts)
    if images.shape != texts.shape:
        raise ValueError(f"each picture needs its own text, got {len(images)} pictures and {len(texts)} texts")
    return (images * texts).sum(dim=1)


def clip_i(images: Float[Tensor, "b d"], references: Float[Tensor, "r d"]) -> Float[Tensor, "b"]:
    """CLIP-I: mean over all references of the cosine with each picture (its mean is that over all pairs)."""
    _check_unit(images, references)
    if not len(references):
        raise ValueError("clip_i needs at least one reference picture, got none")
    return (images @ references.T).mean(dim=1)


@dataclass(frozen=True)
class LocalScore:
    """Likeness of the subject's region, and whether the subject was found (else the whole picture was compared)."""

    score: Float[Tensor, "b"]
    found: Bool[Tensor, "b"]


@dataclass(frozen=True)
class LocalViews:
    """Features of the subject's region of each picture."""

    features: Float[Tensor, "b d"]
    found: Bool[Tensor, "b"]


def local_views(encoder: Encoder, locator: Locator, pictures: Float[Tensor, "b 3 h w"], class_word: str) -> LocalViews:
    """Find the subject, cut it out, resize to the picture's shorter side, encode."""
    boxes = locator.boxes(pictures, class_word)
    pieces = cut(pictures, boxes.xyxy, min(pictures.shape[2:]))
    return LocalViews(encoder.images(pieces.clamp(0, 1)), boxes.found)


def masked_views(encoder: Encoder, pictures: Float[Tensor, "b 3 h w"], masks: Bool[Tensor, "b h w"]) -> LocalViews:
    """As `local_views`, where it is known which pixels are the subject's: a square around them, and nothing to find."""
    boxes = boxes_of_masks(masks, least=1)
    pieces = cut(pictures, boxes.xyxy, min(pictures.shape[2:]))
    return LocalViews(encoder.images(pieces.clamp(0, 1)), boxes.found)


def local_clip_i(views: LocalViews, references: LocalViews) -> LocalScore:
    """Local CLIP-I: CLIP-I of the subjects' regions (the paper's definition is not public; this one is ours)."""
    return LocalScore(clip_i(views.features, references.features), views.found)


def diversity(images: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """One minus the mean cosine over all pairs of pictures of one prompt: 0 when all seeds give the same picture.

    Source: DreamBooth (Ruiz et al. 2023), section 4.3 (DIV), with the encoder's cosine for LPIPS.
    """
    _check_unit(images)
    count = len(images)
    if count < 2:
        raise ValueError(f"diversity needs at least two pictures of a prompt, got {count}")
    cosines = images @ images.T
    return 1 - (cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1))


def drift(base: Float[Tensor, "b d"], tuned: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
    """One minus the cosine of the base's and the tuned model's picture of the same noise and prompt."""
    return 1 - clip_t(tuned, base)


def subject_score(
    probabilities: dict[str, Float[Tensor, "b n"]], names: dict[str, tuple[str, ...]], attributes: dict[str, str]
) -> Float[Tensor, "b"]:
    """Mean probability an oracle gives to the asked value of every attribute.

    Raises:
        ValueError: the oracle does not know an attribute or a value, or nothing is asked.
    """
    if not attributes:
        raise ValueError("subject_score needs at least one attribute, got none")
    asked = []
    for attribute, value in attributes.items():
        if attribute not in probabilities or value not in names[attribute]:
            known = names.get(attribute, tuple(probabilities))
            raise ValueError(f"the oracle must know {attribute}={value!r}, got only {', '.join(known)}")
        asked.append(probabilities[attribute][:, names[attribute].index(value)])
    return torch.stack(asked).mean(dim=0)


def _check_unit(*features: Float[Tensor, "_ d"]) -> None:
    """A cosine is an inner product only of unit vectors; NaN fails too."""
    for feature in features:
        lengths = feature.float().norm(dim=1)
        if len(lengths) and not torch.allclose(lengths, torch.ones_like(lengths), atol=1e-3):
            raise ValueError(f"features must have length 1, got lengths {lengths.min():.4g} to {lengths.max():.4g}")
