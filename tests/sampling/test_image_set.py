"""Image sets: pictures come back to the 8th bit, and every prompt is asked once with every seed."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from quantbooth.data.prompts import prompts_for
from quantbooth.data.questions import Question, Questions
from quantbooth.data.subjects import Prompt, Subject
from quantbooth.runtime.errors import UserError
from quantbooth.sampling.image_set import (
    UNRELATED,
    Request,
    read_images,
    read_requests,
    requests_for,
    unrelated_requests,
    write_image,
    write_requests,
)

PHOTO = torch.zeros(1, 3, 4, 4)
REX = Subject("rex", "dog", "sks", PHOTO, PHOTO, prompts_for(live=True), "f" * 64)


def test_every_8_bit_value_comes_back_exactly(tmp_path: Path) -> None:
    image = (torch.arange(256).reshape(1, 16, 16).expand(3, 16, 16) / 255).clone()
    image[1] = image[1].flip(0)
    image[2] = image[2].T.clone()
    write_image(tmp_path / "a.png", image)
    write_image(tmp_path / "b.png", image.flip(1))
    assert torch.equal(read_images([tmp_path / "a.png", tmp_path / "b.png"]), torch.stack([image, image.flip(1)]))


def test_values_are_rounded_to_the_nearest_and_cut_to_the_range(tmp_path: Path, generator: torch.Generator) -> None:
    image = torch.rand(3, 9, 7, generator=generator) * 1.4 - 0.2
    write_image(tmp_path / "a.png", image)
    (read,) = read_images([tmp_path / "a.png"])
    torch.testing.assert_close(read, image.clamp(0, 1), rtol=0, atol=0.5 / 255 + 1e-6)


def test_rows_are_rows_and_colours_are_red_green_blue(tmp_path: Path) -> None:
    image = torch.zeros(3, 2, 5)
    image[0, 0, 4] = 1
    write_image(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (5, 2)
        assert picture.getpixel((4, 0)) == (255, 0, 0)


def test_twenty_five_prompts_are_asked_with_every_seed() -> None:
    requests = requests_for(REX, seeds=[0, 1, 2, 3])
    assert len(requests) == 25 * 4
    assert len({request.file for request in requests}) == 100
    assert {(request.prompt, request.seed) for request in requests} == {
        (prompt.template, seed) for prompt in REX.prompts for seed in range(4)
    }


def test_a_request_says_what_the_model_reads_and_what_judges_read() -> None:
    request = requests_for(REX, seeds=[7])[0]
    assert request == Request(
        "000-7.png", "a sks dog in the jungle", "a dog in the jungle", "a {} in the jungle", "context", 7
    )


def test_every_nth_prompt_keeps_its_number_and_so_its_file() -> None:
    few, all_of_them = requests_for(REX, [0], every=8), requests_for(REX, [0])
    assert [request.file for request in few] == ["000-0.png", "008-0.png", "016-0.png", "024-0.png"]
    assert few == all_of_them[::8]


def test_requests_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    prompt = Prompt("a {} café", "context", asked={"context": "at night"}, own={"colour": "red"})
    asked = requests_for(Subject("rex", "dog", "sks", PHOTO, PHOTO, (prompt,), "f" * 64), [0, 5])
    write_requests(tmp_path, asked)
    assert read_requests(tmp_path) == asked
    assert len(json.loads((tmp_path / "images.json").read_text())) == 2


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png: it is not there"):
        read_images([tmp_path / "gone.png"])


def test_unrelated_prompts_are_the_first_that_name_neither_class_nor_identifier() -> None:
    texts = ("a dog at sea", "two dogs", "a dogma", "a cat", "a Dog", "a sks cat", "a cat", "a fish", "a mug")
    questions = Questions("some", tuple(Question(text, seed) for seed, text in enumerate(texts)))
    found = unrelated_requests(questions, REX, 3, seed=7)
    assert [request.text for request in found] == ["a dogma", "a cat", "a fish"]
    first = Request("unrelated-000-7.png", "a dogma", "a dogma", "a dogma", UNRELATED, 7)
    assert found[0] == first
    with pytest.raises(
        UserError, match=r"^protocol\.prior_prompts=5 needs as many prompts of base\.held_out without dog, found 4"
    ):
        unrelated_requests(questions, REX, 5, seed=7)
