"""Locators: find the subject in a picture, as a square box to crop and compare."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import label
from torch import Tensor, nn
from torch.nn.functional import interpolate

MARGIN = 0.1


@dataclass(frozen=True)
class Boxes:
    """One box per picture: left, top, right, bottom in pixels, the last two exclusive; the whole picture if not found.

    `masks` are the subject's pixels, if the locator finds them.
    """

    xyxy: Float[Tensor, "b 4"]
    found: Bool[Tensor, "b"]
    masks: Bool[Tensor, "b h w"] | None = None


class Locator(nn.Module, ABC):
    """Finds the subject's box in pictures.

    `tells_pixels`: whether its boxes have masks, so that the background can be masked out.
    """

    tells_pixels = False

    @property
    @abstractmethod
    def name(self) -> str:
        """Model, weights and threshold, recorded with every regional score."""

    @abstractmethod
    def boxes(self, pictures: Float[Tensor, "b 3 h w"], class_word: str) -> Boxes:
        """Return square boxes of an object of `class_word`, in pictures with values in [0, 1]."""


class WholeImage(Locator):
    """Always the whole picture: local scores equal the global ones, except where a subject's masks are given."""

    @property
    def name(self) -> str:
        return "whole image"

    def boxes(self, pictures: Float[Tensor, "b 3 h w"], class_word: str) -> Boxes:
        found = torch.ones(len(pictures), dtype=torch.bool, device=pictures.device)
        return Boxes(whole(pictures).to(pictures.device), found)


def whole(pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 4"]:
    """Return the box of the whole picture, for every picture."""
    count, _, height, width = pictures.shape
    return torch.tensor([0.0, 0.0, width, height]).repeat(count, 1)


def tight_boxes(mask: Bool[Tensor, "b h w"]) -> Float[Tensor, "b 4"]:
    """Return the smallest boxes around the true pixels; all zero where there are none."""
    edges = [_first_and_end(mask.any(dim=axis)) for axis in (1, 2)]
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], dim=1).float()


def _first_and_end(line: Bool[Tensor, "b n"]) -> tuple[Tensor, Tensor]:
    """Return the index of the first true entry and one past the last of each row; (0, 0) for an empty row."""
    count = line.shape[1]
    first = line.byte().argmax(dim=1)
    end = count - line.flip(1).byte().argmax(dim=1)
    return first, torch.where(line.any(dim=1), end, 0)


def square(boxes: Float[Tensor, "b 4"], height: int, width: int, margin: float = MARGIN) -> Float[Tensor, "b 4"]:
    """Return square boxes on whole pixels around tight ones.

        side = ceil(longer * (1 + 2 margin)), at most min(height, width)

    The square is centred on the tight box, and moved inside the picture where it would cross the border.
    """
    left, top, right, bottom = boxes.unbind(dim=1)
    longer = torch.maximum(right - left, bottom - top)
    side = (longer * (1 + 2 * margin) - 1e-4).ceil().clamp(1, min(height, width))
    x = ((left + right - side) / 2).floor().clamp(min=0).minimum(width - side)
    y = ((top + bottom - side) / 2).floor().clamp(min=0).minimum(height - side)
    return torch.stack([x, y, x + side, y + side], dim=1)


def boxes_of_masks(mask: Bool[Tensor, "b h w"], least: int) -> Boxes:
    """Return square boxes around masks; a mask of fewer than `least` pixels counts as not found."""
    _, height, width = mask.shape
    found = mask.flatten(1).sum(dim=1) >= least
    full = torch.tensor([0.0, 0.0, width, height], device=mask.device)
    return Boxes(torch.where(found[:, None], square(tight_boxes(mask), height, width), full), found, mask)


def boxes_of_likelihoods(likelihood: Float[Tensor, "b h w"], threshold: float, least: float) -> Boxes:
    """Return boxes around the pixels that likely belong to the subject, without specks.

    A subject that covers less than the share `least` of its picture counts as not found.
    """
    height, width = likelihood.shape[1:]
    return boxes_of_masks(without_specks(likelihood > threshold), math.ceil(least * height * width))


def boxes_of_candidates(
    scores: Float[Tensor, "b n"], corners: Float[Tensor, "b n 4"], height: int, width: int, threshold: float
) -> Boxes:
    """Return square boxes around the best of several candidates, clipped to the picture.

    `corners` (left, top, right, bottom in pixels) may cross the border. Candidates outside the picture (in its padding)
    are ignored; a best score below `threshold` counts as not found.
    """
    limits = torch.tensor([width, height, width, height], dtype=corners.dtype, device=corners.device)
    inside = corners.clamp(min=0).minimum(limits)
    there = ((inside[..., 2:] - inside[..., :2]) >= 1).all(dim=-1)
    highest, best = scores.where(there, -torch.inf).max(dim=1)
    found, chosen = highest >= threshold, inside[torch.arange(len(best), device=best.device), best]
    full = torch.tensor([0.0, 0.0, width, height], device=corners.device)
    return Boxes(torch.where(found[:, None], square(chosen, height, width), full), found)


def without_specks(mask: Bool[Tensor, "b h w"], share: float = 0.1) -> Bool[Tensor, "b h w"]:
    """Return masks without connected parts smaller than a share of the mask: one stray pixel would move the box.

    Larger parts all stay, since a scarf or a leaf may split the subject.
    """
    kept = [_large_parts(one, share) for one in mask.cpu().numpy()]
    return torch.from_numpy(np.stack(kept)).to(mask.device) if kept else mask


def _large_parts(mask: np.ndarray, share: float) -> np.ndarray:
    parts, count = label(mask)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    large = sizes >= share * mask.sum()
    large[0] = False
    return large[parts]


def crop(pictures: Float[Tensor, "b 3 h w"], boxes: Float[Tensor, "b 4"], size: int) -> Float[Tensor, "b 3 size size"]:
    """Crop each picture's box and resize it to `size` x `size` (bilinear, anti-aliased), with edges on whole pixels.

    Raises:
        ValueError: when a box is empty or crosses the border of its picture.
    """
    _, _, height, width = pictures.shape
    pieces = []
    for picture, box in zip(pictures, boxes.round().long().tolist(), strict=True):
        left, top, right, bottom = box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(f"a box must lie inside its {width} x {height} picture and hold a pixel, got {box}")
        piece = picture[None, :, top:bottom, left:right]
        pieces.append(interpolate(piece, size=(size, size), mode="bilinear", antialias=True, align_corners=False))
    return torch.cat(pieces) if pieces else pictures.new_zeros(0, 3, size, size)


def mask_overlap(one: Bool[Tensor, "b h w"], other: Bool[Tensor, "b h w"]) -> Float[Tensor, "b"]:
    """Return the intersection over union of two masks per picture; 1 where both are empty."""
    both, either = ((one & other).flatten(1).sum(1), (one | other).flatten(1).sum(1))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def box_overlap(one: Float[Tensor, "b 4"], other: Float[Tensor, "b 4"]) -> Float[Tensor, "b"]:
    """Return the intersection over union of two boxes per picture."""
    size = (torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])).clamp(min=0)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (one, other)]
    both = size.prod(dim=1)
    return both / (areas[0] + areas[1] - both)
