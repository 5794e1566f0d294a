"""A subject: its prompts with and without the identifier, and refusals."""

from dataclasses import replace

import pytest
import torch

from quantbooth.data.subjects import Prompt, Subject
from quantbooth.runtime.errors import UserError

PHOTOS = torch.zeros(2, 3, 4, 4)


def subject(*templates: str, photos: torch.Tensor = PHOTOS) -> Subject:
    prompts = tuple(Prompt(template, "own") for template in templates)
    return Subject("rex", "dog", "sks", photos, photos, prompts, "f" * 64)


def test_the_model_reads_the_identifier_and_no_judge_does() -> None:
    rex = subject("a {} in the snow")
    assert rex.asked_text(rex.prompts[0]) == "a sks dog in the snow"
    assert rex.judged_text(rex.prompts[0]) == "a dog in the snow"
    assert (rex.tuning_text, rex.class_text) == ("a photo of a sks dog", "a photo of a dog")


def test_other_braces_of_an_own_prompt_stay_as_they_are() -> None:
    rex = subject("a {} {in} the {0} snow")
    assert rex.asked_text(rex.prompts[0]) == "a sks dog {in} the {0} snow"


@pytest.mark.parametrize("template", ["a dog", "a {} and a {}"])
def test_a_prompt_holds_the_place_of_the_subject_once(template: str) -> None:
    with pytest.raises(UserError, match=r"a prompt must hold \{\} once, where the subject goes, got"):
        subject(template)


def test_a_subject_without_photos_is_refused() -> None:
    with pytest.raises(UserError, match="subject 'rex' has no photos; give 3 to 6 of them"):
        subject("a {}", photos=PHOTOS[:0])


@pytest.mark.usefixtures("unchecked")
def test_masks_that_do_not_belong_to_the_references_are_refused() -> None:
    for shape in ((1, 4, 4), (2, 3, 4)):
        with pytest.raises(
            ValueError, match=r"^masks must be as many and as large as the references, \[2, 4, 4\], got"
        ):
            replace(subject("a {}"), reference_masks=torch.ones(shape, dtype=torch.bool))
