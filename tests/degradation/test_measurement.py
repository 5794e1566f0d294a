"""Same-noise comparison: rows equal a plain loop's, equal pictures are alike, answers are first guesses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from quantbooth.degradation.measurement import compare_pictures, right_answers
from quantbooth.evaluation.encoders import Encoder
from quantbooth.evaluation.locators import WholeImage
from quantbooth.evaluation.scorer import Scorer
from quantbooth.runtime.lightning import Loop
from quantbooth.sampling.image_set import Request, read_images, write_image

Compare = Callable[..., list[dict[str, Any]]]
ASKED: list[dict[str, str]] = [{"colour": "red"}, {}, {"colour": "other", "class_word": "dog"}]
REQUESTS = [
    Request(f"{k}.png", text, text, text, "held out", k, asked)
    for k, (text, asked) in enumerate(zip(("r", "gb", "rrb"), ASKED, strict=True))
]


class Colours(Encoder):
    """Features are mean colours; a text's are those of its letters."""

    @property
    def name(self) -> str:
        return "mean colours"

    def images(self, pictures: Tensor) -> Tensor:
        return normalize(pictures.mean(dim=(2, 3)) + 0.01, dim=1)

    def texts(self, sentences: list[str]) -> Tensor:
        return normalize(torch.tensor([[text.count(letter) + 1.0 for letter in "rgb"] for text in sentences]), dim=1)


class Truth(nn.Module):
    """Says that a picture is red when more than half of it is, and always a cat."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, tuple[str, ...]] = {"colour": ("red", "other"), "class_word": ("dog", "cat")}

    def probabilities(self, pictures: Tensor) -> dict[str, Tensor]:
        red = pictures[:, 0].mean(dim=(1, 2))
        cat = torch.full_like(red, 0.9)
        return {"colour": torch.stack([red, 1 - red], 1), "class_word": torch.stack([1 - cat, cat], 1)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    draw, made = torch.Generator().manual_seed(0), [tmp_path_factory.mktemp(name) for name in ("one", "other")]
    for folder in made:
        for request in REQUESTS:
            write_image(folder / request.file, torch.rand(3, 16, 16, generator=draw))
    return made


@pytest.fixture
def compare(loop: Loop) -> Compare:
    def run(folder: Path, against: Path, oracle: Truth | None = None) -> list[dict[str, Any]]:
        scorer = Scorer(Colours(), WholeImage(), oracle)
        return compare_pictures(scorer, REQUESTS, folder, against, loop, 2, "comparing")

    return run


def test_rows_equal_a_loop(compare: Compare, folders: list[Path]) -> None:
    rows = compare(folders[0], folders[1], Truth())
    for request, row in zip(REQUESTS, rows, strict=True):
        one, other = read_images([folder / request.file for folder in folders]).double().unbind()
        means = [float(channel.mean()) + 0.01 for channel in one]
        words = [request.text.count(letter) + 1.0 for letter in "rgb"]
        length = (sum(a * a for a in means) * sum(b * b for b in words)) ** 0.5
        assert row["clip_t"] == pytest.approx(sum(a * b for a, b in zip(means, words, strict=True)) / length, abs=1e-5)
        assert row["mse"] == pytest.approx(float((one - other).square().mean()), rel=1e-5)
        assert -1 <= row["ssim"] < 0.5
        assert (row["file"], row["text"], row["noise_seed"]) == (request.file, request.text, request.seed)


def test_answers_are_there_for_what_is_asked_only(compare: Compare, folders: list[Path]) -> None:
    rows = compare(folders[0], folders[1], Truth())
    red = [float(read_images([folders[0] / request.file])[0, 0].mean()) > 0.5 for request in REQUESTS]
    found = [{key: value for key, value in row.items() if key.startswith("right_")} for row in rows]
    assert found == [{"right_colour": float(red[0])}, {}, {"right_colour": float(not red[2]), "right_class_word": 0.0}]
    assert not any(key.startswith("right_") for row in compare(folders[0], folders[1]) for key in row)


def test_pictures_compared_with_themselves_are_alike(compare: Compare, folders: list[Path]) -> None:
    for row in compare(folders[0], folders[0]):
        assert (row["ssim"], row["mse"]) == (1.0, 0.0)


def test_what_the_oracle_does_not_know_is_refused() -> None:
    one = {"colour": torch.tensor([[0.5, 0.5]])}
    names = {"colour": ("red", "other")}
    with pytest.raises(ValueError, match="must know colour='blue', got only red, other"):
        right_answers(one, names, [{"colour": "blue"}])
    with pytest.raises(ValueError, match="must know size='big', got only colour"):
        right_answers(one, names, [{"size": "big"}])
