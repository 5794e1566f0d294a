"""Questions: all prompts before the next noise seed, a complete fingerprint, and every refusal."""

from dataclasses import replace

import pytest
import torch

from quantbooth.data.questions import GENERAL, Question, Questions, general_questions, questions_of
from quantbooth.runtime.errors import UserError


def test_sentences_come_again_with_the_next_noise_seed() -> None:
    found = questions_of(["a dog", "a cat"], 5, seed=7)
    asked = [(question.text, question.seed) for question in found.each]
    assert asked == [("a dog", 7), ("a cat", 7), ("a dog", 8), ("a cat", 8), ("a dog", 9)]
    assert found.name == "2 given prompts"
    assert found.pictures is None


def test_general_ones_are_some_twenty_different_sentences() -> None:
    assert len(set(GENERAL)) == len(GENERAL) == 20
    assert {question.text for question in general_questions(40, 0).each} == set(GENERAL)


def test_the_fingerprint_tells_every_part_apart() -> None:
    one = Questions("n", (Question("a dog", 0, {"class_word": "dog"}),), torch.zeros(1, 3, 2, 2))
    others = [
        replace(one, each=(Question("a dog", 1, {"class_word": "dog"}),)),
        replace(one, each=(Question("a cat", 0, {"class_word": "dog"}),)),
        replace(one, each=(Question("a dog", 0, {"class_word": "cat"}),)),
        replace(one, pictures=torch.ones(1, 3, 2, 2)),
        replace(one, pictures=None),
    ]
    assert len({found.fingerprint for found in (one, *others)}) == 6
    assert replace(one, name="another").fingerprint == one.fingerprint


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], r"degradation.prompts must be a list of sentences such as \[a dog,a red car\], got \[\]"),
        (["a dog", " "], "must be a list of sentences"),
        ("a dog", "must be a list of sentences"),
        ([3], "must be a list of sentences"),
        (["a dog", "a cat", "a dog"], "each of degradation.prompts must be given once, got 'a dog' again"),
        (["a dog", "a cat", "A  Dog "], "each of degradation.prompts must be given once, got 'A  Dog ' and 'a dog'"),
        (["a caf\u00e9", "a cafe\u0301"], "each of degradation.prompts must be given once"),
    ],
)
def test_what_are_no_sentences_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        questions_of(texts, 3, 0, option="degradation.prompts")


def test_questions_must_be_there_differ_and_have_a_picture_each() -> None:
    one = Question("a dog", 0)
    for each, pictures in (((), None), ((one, one), None), ((one,), torch.zeros(2, 3, 2, 2))):
        with pytest.raises(ValueError, match="question"):
            Questions("n", each, pictures)
