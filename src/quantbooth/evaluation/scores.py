"""Scores as pure functions.

Of features: fidelity, diversity, drift. Of picture pairs from the same noise: SSIM, mean squared error, PSNR.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from quantbooth.evaluation.encoders import check_pictures
from quantbooth.evaluation.locators import Boxes, Locator, boxes_of_masks, crop

__all__ = [
    "Regions",
    "clip_i",
    "clip_t",
    "diversity",
    "diversity_of_each",
    "drift",
    "regions_of_masks",
    "locate_regions",
    "mean_squared_error",
    "psnr",
    "ssim",
    "subject_score",
]

GREY = 0.5
"""The value of a masked background."""


def clip_t(images: Float[Tensor, "b d"], texts: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
    """Return CLIP-T: the cosine of each picture with its prompt without the identifier token."""
    _check_unit(images, texts)
    if images.shape != texts.shape:
        raise ValueError(f"each picture needs its own text, got {len(images)} pictures and {len(texts)} texts")
    return (images * texts).sum(dim=1)


def clip_i(images: Float[Tensor, "b d"], references: Float[Tensor, "r d"]) -> Float[Tensor, "b"]:
    """Return CLIP-I: each picture's mean cosine with all references (its mean is over all pairs)."""
    _check_unit(images, references)
    if not len(references):
        raise ValueError("clip_i needs at least one reference picture, got none")
    return (images @ references.T).mean(dim=1)


@dataclass(frozen=True)
class Regions:
    """The subject's region of each picture, as large as the picture's shorter side; the whole one if not found."""

    pictures: Float[Tensor, "b 3 s s"]
    found: Bool[Tensor, "b"]


def locate_regions(
    locator: Locator, pictures: Float[Tensor, "b 3 h w"], class_word: str, background: bool = True
) -> Regions:
    """Find and crop the subject; local CLIP-I is CLIP-I of regions (the paper does not publish its definition).

    Without `background`, everything but the subject becomes grey.
    """
    return _regions(pictures, locator.boxes(pictures, class_word), background)


def regions_of_masks(
    pictures: Float[Tensor, "b 3 h w"], masks: Bool[Tensor, "b h w"], background: bool = True
) -> Regions:
    """Crop the subject by its masks; otherwise as `locate_regions`."""
    return _regions(pictures, boxes_of_masks(masks, least=1), background)


def _regions(pictures: Float[Tensor, "b 3 h w"], boxes: Boxes, background: bool) -> Regions:
    if not background:
        if boxes.masks is None:
            raise ValueError("the background can only be masked where a locator gives the subject's pixels")
        own = boxes.masks | ~boxes.found[:, None, None]
        pictures = torch.where(own[:, None], pictures, GREY)
    return Regions(crop(pictures, boxes.xyxy, min(pictures.shape[2:])).clamp(0, 1), boxes.found)


def diversity_of_each(images: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    """Return one minus each picture's mean cosine with the others of its prompt; their mean is `diversity`."""
    _check_unit(images)
    count = len(images)
    if count < 2:
        raise ValueError(f"diversity needs at least two pictures of a prompt, got {count}")
    cosines = images @ images.T
    return 1 - (cosines.sum(dim=1) - cosines.diagonal()) / (count - 1)


def diversity(images: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return one minus the mean cosine over all picture pairs of one prompt: 0 when all seeds give the same picture.

    Source: DreamBooth (Ruiz et al. 2023), section 4.3 (DIV), with the encoder's cosine for LPIPS.
    """
    return diversity_of_each(images).mean()


def drift(base: Float[Tensor, "b d"], tuned: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
    """Return one minus the cosine of the base's and the tuned model's picture of the same noise and prompt."""
    return 1 - clip_t(tuned, base)


def subject_score(
    probabilities: dict[str, Float[Tensor, "b _n"]], names: dict[str, tuple[str, ...]], attributes: dict[str, str]
) -> Float[Tensor, "b"]:
    """Return the oracle's mean probability of the requested values.

    Raises:
        ValueError: for an unknown attribute or value, or no attribute.
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
    """Check for unit vectors: only then is an inner product a cosine. NaN fails too."""
    for feature in features:
        lengths = feature.float().norm(dim=1)
        if len(lengths) and not torch.allclose(lengths, torch.ones_like(lengths), atol=1e-3):
            raise ValueError(f"features must have length 1, got lengths {lengths.min():.4g} to {lengths.max():.4g}")


WINDOW = 11


def ssim(pictures: Float[Tensor, "b 3 h w"], others: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Return the structural similarity of each pair, 1 for equal pictures (Wang et al. 2004).

    Gaussian windows of 11 x 11 pixels with sigma 1.5 around every pixel, the picture mirrored at its border, values in
    [0, 1], mean over pixels and channels.

    Raises:
        ValueError: when shapes differ, values are outside [0, 1], or a side is shorter than a window.
    """
    _check(pictures, others)
    if min(pictures.shape[2:]) < WINDOW:
        raise ValueError(f"pictures must be at least {WINDOW} pixels wide and high, got {tuple(pictures.shape[2:])}")
    found = structural_similarity_index_measure(pictures, others, data_range=1.0, reduction="none")
    if not isinstance(found, Tensor):
        raise TypeError(f"one similarity per pair was expected, got {type(found).__name__}")
    return found


def mean_squared_error(pictures: Float[Tensor, "b 3 h w"], others: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Return the mean squared difference of each pair over channels and pixels, values in [0, 1]."""
    _check(pictures, others)
    return (pictures - others).square().mean(dim=(1, 2, 3))


def psnr(error: float) -> float:
    """Return 10 log10(1 / error) in dB, for values in [0, 1]; infinite for equal pictures.

    Use it on the mean squared error of many pictures: one pair of equal pictures would make a mean of dB infinite.

    Raises:
        ValueError: for a negative error.
    """
    if error < 0:
        raise ValueError(f"a squared error must be >= 0, got {error}")
    return math.inf if error == 0 else -10 * math.log10(error)


def _check(pictures: Tensor, others: Tensor) -> None:
    check_pictures(pictures)
    check_pictures(others)
    if pictures.shape != others.shape:
        raise ValueError(f"both must have one shape, got {tuple(pictures.shape)} and {tuple(others.shape)}")
