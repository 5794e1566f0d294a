"""Boxes from drawn masks, squares at the border, cutting, overlaps."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from quantbooth.evaluation.locators import (
    Locator,
    WholeImage,
    box_overlap,
    boxes_of_candidates,
    boxes_of_likelihoods,
    boxes_of_masks,
    crop,
    mask_overlap,
    square,
    tight_boxes,
)


def _mask(left: int, top: int, right: int, bottom: int, size: int = 32) -> Tensor:
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, top:bottom, left:right] = True
    return mask


def test_tight_box_is_exclusive_on_the_right_and_zero_for_an_empty_mask() -> None:
    masks = torch.cat([_mask(3, 5, 9, 20), _mask(31, 0, 32, 1), _mask(0, 0, 0, 0), _mask(0, 0, 32, 32)])
    assert tight_boxes(masks).tolist() == [[3, 5, 9, 20], [31, 0, 32, 1], [0, 0, 0, 0], [0, 0, 32, 32]]


def test_square_has_ten_percent_margin_around_the_longer_side() -> None:
    found = boxes_of_masks(_mask(10, 6, 20, 26), least=1)
    assert found.xyxy.tolist() == [[3, 4, 27, 28]]
    assert found.found.tolist() == [True]


def test_square_is_moved_inside_and_never_larger_than_the_shorter_side() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [22, 22, 32, 32], [0, 0, 40, 30]])
    assert square(boxes[:2], 32, 32).tolist() == [[0, 0, 12, 12], [20, 20, 32, 32]]
    assert square(boxes[2:], 30, 40).tolist() == [[5, 0, 35, 30]]


def test_a_nearly_empty_mask_is_not_found_and_gives_the_whole_picture() -> None:
    found = boxes_of_masks(torch.cat([_mask(4, 4, 6, 6), _mask(4, 4, 9, 9)]), least=12)
    assert found.found.tolist() == [False, True]
    assert found.xyxy[0].tolist() == [0, 0, 32, 32]


def test_cut_takes_exactly_the_pixels_of_the_box() -> None:
    picture = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(crop(picture, torch.tensor([[2.0, 3, 6, 7]]), 4), picture[:, :, 3:7, 2:6])
    torch.testing.assert_close(crop(picture, torch.tensor([[0.0, 0, 8, 8]]), 8), picture)
    flat = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(crop(flat, torch.tensor([[1.0, 1, 4, 4]]), 8), flat)


def test_whole_image_finds_everything() -> None:
    found = WholeImage().boxes(torch.zeros(2, 3, 6, 9), "mug")
    assert found.xyxy.tolist() == [[0, 0, 9, 6]] * 2
    assert found.found.all()


def test_overlaps_by_hand() -> None:
    masks = torch.cat([_mask(0, 0, 4, 4), _mask(0, 0, 0, 0)]), torch.cat([_mask(2, 0, 6, 4), _mask(0, 0, 0, 0)])
    torch.testing.assert_close(mask_overlap(*masks), torch.tensor([1 / 3, 1.0]))
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 2]]), torch.tensor([[2.0, 0, 6, 4], [5, 5, 7, 7]])
    torch.testing.assert_close(box_overlap(*boxes), torch.tensor([1 / 3, 0.0]))


@pytest.mark.parametrize("box", [[0.0, 0, 9, 4], [-1.0, 0, 4, 4], [4.0, 4, 4, 6]])
def test_a_box_outside_the_picture_or_empty_is_refused(box: list[float]) -> None:
    with pytest.raises(ValueError, match="must lie inside its 8 x 8 picture"):
        crop(torch.zeros(1, 3, 8, 8), torch.tensor([box]), 4)


def test_the_abstract_locator_cannot_be_made() -> None:
    with pytest.raises(TypeError):
        Locator()  # type: ignore[abstract]


def test_likely_pixels_make_a_box_without_specks_and_too_few_of_them_a_miss() -> None:
    likelihood = torch.zeros(3, 32, 32)
    likelihood[0, 6:26, 10:20] = 0.9
    likelihood[0, 0, 31] = 0.9  # a speck
    likelihood[1, 6:26, 10:20] = 0.4
    likelihood[2, 0:3, 0:3] = 0.9
    found = boxes_of_likelihoods(likelihood, threshold=0.4, least=0.01)  # at least 11 of 1024 pixels
    assert found.found.tolist() == [True, False, False]
    assert found.xyxy.tolist() == [[3, 4, 27, 28], [0, 0, 32, 32], [0, 0, 32, 32]]
    assert found.masks is not None and found.masks.flatten(1).sum(1).tolist() == [200, 0, 9]


def test_the_best_candidate_is_taken_as_far_as_it_lies_in_the_picture() -> None:
    scores = torch.tensor([[0.3, 0.8], [0.9, 0.1], [0.2, 0.1], [0.9, 0.0], [0.9, 0.5]])
    inside, over, outside = [2.0, 2, 12, 12], [-6.0, 10, 4, 20], [35.0, 0, 45, 9]
    corners = torch.tensor([[inside, over], [inside, over], [inside, over], [outside, inside], [outside, inside]])
    found = boxes_of_candidates(scores, corners, height=30, width=32, threshold=0.25)
    assert found.found.tolist() == [True, True, False, False, True]
    boxes = [[0, 9, 12, 21], [1, 1, 13, 13], [0, 0, 32, 30], [0, 0, 32, 30], [1, 1, 13, 13]]
    assert found.xyxy.tolist() == boxes


@pytest.mark.parametrize("size", [4, 10, 30])
def test_crops_are_anti_aliased_as_pillow_does(size: int, generator: torch.Generator) -> None:
    picture = torch.rand(1, 3, 32, 32, generator=generator)
    found = crop(picture, torch.tensor([[4.0, 2, 28, 26]]), size)
    for channel in range(3):
        part = Image.fromarray(picture[0, channel, 2:26, 4:28].numpy())
        expected = torch.from_numpy(np.array(part.resize((size, size), Image.Resampling.BILINEAR)))
        torch.testing.assert_close(found[0, channel], expected, rtol=0, atol=1e-5)
