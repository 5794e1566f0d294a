"""CLIPSeg and OWLv2 as locators, random weights in their true formats: equal to transformers by hand, misses told."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor, Owlv2ForObjectDetection, Owlv2Processor

from quantbooth.evaluation.locators import boxes_of_likelihoods, square
from quantbooth.evaluation.text_locators import ClipSegLocator, Owlv2Locator
from quantbooth.runtime.errors import UserError

Write = Callable[[str], Path]


def pictures(count: int, height: int = 48, width: int = 48) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(2))


def photos(shown: Tensor) -> list[Image.Image]:
    return [Image.fromarray((one * 255).round().byte().permute(1, 2, 0).numpy()) for one in shown]


def test_clipseg_likelihoods_equal_those_of_transformers_called_by_hand(network: Write) -> None:
    folder = network("clipseg")
    model, processor = (
        CLIPSegForImageSegmentation.from_pretrained(folder).eval(),
        CLIPSegProcessor.from_pretrained(folder),
    )
    expected = []
    for photo in photos(pictures(3)):
        with torch.no_grad():
            logits = model(**processor(text=["dog"], images=[photo], return_tensors="pt")).logits
        likelihood = logits.reshape(1, 1, 32, 32).sigmoid()
        expected.append(torch.nn.functional.interpolate(likelihood, (48, 48), mode="bilinear")[0, 0])
    locator = ClipSegLocator(folder)
    found = locator.likelihoods(pictures(3), "dog")
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)
    assert found.std() > 1e-3
    assert (found - locator.likelihoods(pictures(3), "duck")).abs().max() > 1e-4  # the word counts


def test_clipseg_boxes_are_those_around_likely_pixels_and_come_with_masks(network: Write) -> None:
    plain = ClipSegLocator(network("clipseg"))
    shown = pictures(4)
    likelihoods = plain.likelihoods(shown, "dog")
    middle = float(likelihoods.median())
    locator = ClipSegLocator(network("clipseg"), threshold=middle, least=0.01)
    boxes, expected = locator.boxes(shown, "dog"), boxes_of_likelihoods(likelihoods, middle, 0.01)
    assert locator.tells_pixels and boxes.masks is not None
    assert torch.equal(boxes.xyxy, expected.xyxy)
    assert boxes.found.all()
    missed = ClipSegLocator(network("clipseg"), threshold=float(likelihoods.max()) + 1e-6).boxes(shown, "dog")
    assert not missed.found.any()
    assert missed.xyxy.tolist() == [[0, 0, 48, 48]] * 4


@pytest.mark.parametrize("shape", [(48, 48), (40, 64)])
def test_the_owlv2_box_is_the_best_of_transformers_called_by_hand(network: Write, shape: tuple[int, int]) -> None:
    folder = network("owlv2")
    model, processor = Owlv2ForObjectDetection.from_pretrained(folder).eval(), Owlv2Processor.from_pretrained(folder)
    shown, expected = pictures(3, *shape), []
    for photo in photos(shown):
        with torch.no_grad():
            outputs = model(**processor(text=[["a photo of a dog"]], images=[photo], return_tensors="pt"))
        (found,) = processor.post_process_grounded_object_detection(outputs, threshold=0.0, target_sizes=[shape])
        limits = torch.tensor([shape[1], shape[0], shape[1], shape[0]], dtype=torch.float32)
        boxes = [box.clamp(min=0).minimum(limits) for box in found["boxes"][found["scores"].argsort(descending=True)]]
        expected.append(next(box for box in boxes if (box[2:] - box[:2]).min() >= 1))  # not in what pads the picture
    made = Owlv2Locator(folder, threshold=1e-6).boxes(shown, "dog")
    assert made.found.all() and made.masks is None
    assert torch.equal(made.xyxy, square(torch.stack(expected), *shape))


def test_an_owlv2_that_is_not_sure_says_so_and_gives_the_whole_picture(network: Write) -> None:
    boxes = Owlv2Locator(network("owlv2"), threshold=0.999).boxes(pictures(2, 40, 64), "dog")
    assert not boxes.found.any()
    assert boxes.xyxy.tolist() == [[0, 0, 64, 40]] * 2


def test_a_word_that_owlv2_cannot_read_whole_is_refused(network: Write) -> None:
    with pytest.raises(UserError, match=r"the locator reads 16 tokens, 'a photo of a x( x)+' has 4\d; choose another"):
        Owlv2Locator(network("owlv2")).boxes(pictures(1), " ".join("x" * 40))


def test_names_tell_weights_and_numbers(network: Write) -> None:
    clipseg, owlv2 = ClipSegLocator(network("clipseg"), 0.3, 0.02), Owlv2Locator(network("owlv2"), 0.15)
    assert clipseg.name.startswith("clipseg sha256:") and clipseg.name.endswith(", above 0.3, at least 2%")
    assert owlv2.name.startswith("owlv2 sha256:") and owlv2.name.endswith(", from 0.15")


def test_folders_of_another_network_are_refused(network: Write) -> None:
    with pytest.raises(UserError, match=r"must hold a owlv2, found a clipseg$"):
        Owlv2Locator(network("clipseg"))
    with pytest.raises(UserError, match=r"must hold a clipseg, found a owlv2$"):
        ClipSegLocator(network("owlv2"))


@pytest.mark.usefixtures("unchecked")
def test_pictures_outside_0_to_1_are_refused(network: Write) -> None:
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        ClipSegLocator(network("clipseg")).likelihoods(2 * pictures(1), "dog")
