"""Scores against float64 twins and cases worked by hand."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from quantbooth.evaluation.encoders import Encoder
from quantbooth.evaluation.locators import Boxes, Locator, WholeImage
from quantbooth.evaluation.scores import (
    clip_i,
    clip_t,
    diversity,
    diversity_of_each,
    drift,
    locate_regions,
    regions_of_masks,
    subject_score,
)


def _features(count: int, seed: int) -> Tensor:
    return normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


class MeanColour(Encoder):
    """Encodes a picture by its mean colour."""

    @property
    def name(self) -> str:
        return "mean colour"

    def images(self, pictures: Tensor) -> Tensor:
        return normalize(pictures.mean(dim=(2, 3)), dim=1)

    def texts(self, sentences: list[str]) -> Tensor:
        raise AssertionError("not used")


class TopLeft(Locator):
    """Finds the subject in the upper left quarter, or not at all in a picture that is blue there."""

    @property
    def name(self) -> str:
        return "top left"

    def boxes(self, pictures: Tensor, class_word: str) -> Boxes:
        found = pictures[:, 2, 0, 0] == 0
        quarter, full = torch.tensor([0.0, 0, 4, 4]), torch.tensor([0.0, 0, 8, 8])
        masks = torch.zeros(len(pictures), 8, 8, dtype=torch.bool)
        masks[:, :4, :2] = True
        return Boxes(torch.where(found[:, None], quarter, full), found, masks)


def test_clip_t_and_clip_i_equal_float64_twins() -> None:
    images, texts, references = _features(6, 0), _features(6, 1), _features(3, 2)
    twin_t = [
        sum(a * b for a, b in zip(i, t, strict=True)) for i, t in zip(images.tolist(), texts.tolist(), strict=True)
    ]
    twin_i = (images.double() @ references.double().T).mean(dim=1)
    torch.testing.assert_close(
        clip_t(images, texts).double(), torch.tensor(twin_t, dtype=torch.float64), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(clip_i(images, references).double(), twin_i, atol=1e-6, rtol=0)


def test_mean_of_clip_i_is_the_mean_over_all_pairs() -> None:
    images, references = _features(4, 3), _features(7, 4)
    pairs = torch.stack([clip_t(images[[i]], references[[j]])[0] for i in range(4) for j in range(7)])
    torch.testing.assert_close(clip_i(images, references).mean(), pairs.mean())


def test_diversity_by_hand() -> None:
    same = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    crossed = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(diversity(same), torch.tensor(0.0))
    torch.testing.assert_close(diversity(crossed), torch.tensor(2 / 3))


def test_drift_is_zero_only_without_change() -> None:
    base = _features(3, 5)
    torch.testing.assert_close(drift(base, base), torch.zeros(3))
    torch.testing.assert_close(drift(base, -base), torch.full((3,), 2.0))


def test_each_picture_has_its_share_of_the_diversity() -> None:
    crossed = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(diversity_of_each(crossed), torch.tensor([0.5, 1.0, 0.5]))
    features = _features(5, 7)
    alone = [1 - (features[i] @ features[[j for j in range(5) if j != i]].T).mean() for i in range(5)]
    torch.testing.assert_close(diversity_of_each(features), torch.stack(alone))
    torch.testing.assert_close(diversity_of_each(features).mean(), diversity(features))


def test_the_region_is_cut_out_and_the_whole_picture_taken_where_nothing_is_found() -> None:
    pictures = torch.zeros(2, 3, 8, 8)
    pictures[:, 1] = 1.0
    pictures[0, :, :4, :4] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    pictures[1, 2, :, :] = 1.0
    regions = locate_regions(TopLeft(), pictures, "mug")
    assert regions.found.tolist() == [True, False]
    red = torch.tensor([[1.0, 0.0, 0.0]])
    torch.testing.assert_close(clip_i(MeanColour().images(regions.pictures), red), torch.tensor([1.0, 0.0]))
    assert torch.equal(regions.pictures[1], pictures[1])


def test_what_surrounds_the_subject_becomes_grey_when_it_is_masked_out() -> None:
    pictures = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures[0, 2, 0, 0], pictures[1, 2, 0, 0] = 0.0, 1.0
    kept, masked = (locate_regions(TopLeft(), pictures, "mug", background) for background in (True, False))
    assert torch.equal(kept.pictures[1], masked.pictures[1])  # not found: the whole picture as it is
    torch.testing.assert_close(masked.pictures[0, :, :, :2], kept.pictures[0, :, :, :2])
    torch.testing.assert_close(masked.pictures[0, :, :, 6:], torch.full((3, 8, 2), 0.5))
    with pytest.raises(ValueError, match="a locator .* the subject's pixels"):
        locate_regions(WholeImage(), pictures, "mug", background=False)


def test_with_the_whole_image_locator_the_region_is_the_picture() -> None:
    pictures = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    regions = locate_regions(WholeImage(), pictures, "mug")
    torch.testing.assert_close(regions.pictures, pictures)
    assert regions.found.all()


def test_masks_take_the_place_of_a_locator() -> None:
    """A mask of three pixels, one of them in the middle: red inside its square, green outside."""
    pictures, masks = torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.bool)
    pictures[:, 1] = 1.0
    pictures[0, :, 2:6, 2:6] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    masks[0, 3, 3:5] = masks[0, 4, 4] = True
    masks[1, 0, 0] = True
    regions = regions_of_masks(pictures, masks)
    found = MeanColour().images(regions.pictures)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert regions.found.all()


def test_subject_score_is_the_mean_probability_of_the_asked_values() -> None:
    probabilities = {"class": torch.tensor([[0.9, 0.1], [0.2, 0.8]]), "emblem": torch.tensor([[0.5, 0.5], [0.0, 1.0]])}
    names: dict[str, tuple[str, ...]] = {"class": ("mug", "duck"), "emblem": ("none", "star")}
    found = subject_score(probabilities, names, {"class": "mug", "emblem": "star"})
    torch.testing.assert_close(found, torch.tensor([0.7, 0.6]))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"class": "fish"}, "class='fish', got only mug, duck"),
        ({"size": "big"}, "size='big'"),
        ({}, "at least one attribute"),
    ],
)
def test_subject_score_refuses_what_the_oracle_does_not_know(attributes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subject_score({"class": torch.ones(1, 2)}, {"class": ("mug", "duck")}, attributes)


def test_features_of_another_length_than_one_are_refused() -> None:
    unit = _features(2, 0)
    for call in (
        lambda: clip_t(unit * 2, unit),
        lambda: clip_i(unit, unit * float("nan")),
        lambda: diversity(unit / 2),
    ):
        with pytest.raises(ValueError, match="must have length 1"):
            call()


@pytest.mark.usefixtures("unchecked")
def test_missing_partners_are_refused() -> None:
    with pytest.raises(ValueError, match="got 3 pictures and 2 texts"):
        clip_t(_features(3, 0), _features(2, 0))
    with pytest.raises(ValueError, match="at least one reference"):
        clip_i(_features(3, 0), torch.zeros(0, 5))
    with pytest.raises(ValueError, match="at least two pictures"):
        diversity(_features(1, 0))
