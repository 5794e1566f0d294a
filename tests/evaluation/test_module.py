"""Evaluation: each row equals a plain loop's, belongs to its picture, and the scorer's name says what judged."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn.functional import normalize

from quantbooth.data.subjects import Prompt, Subject
from quantbooth.evaluation.encoders import Encoder
from quantbooth.evaluation.locators import Boxes, Locator, WholeImage
from quantbooth.evaluation.module import EvaluationModule
from quantbooth.evaluation.scorer import Scorer
from quantbooth.runtime.draws import index_loader
from quantbooth.runtime.errors import UserError
from quantbooth.sampling.image_set import Request, read_images, requests_for, write_image


class Colours(Encoder):
    """Features are mean colours; a text's are those of its letters."""

    @property
    def name(self) -> str:
        return "mean colours"

    def images(self, pictures: Tensor) -> Tensor:
        return normalize(pictures.mean(dim=(2, 3)) + 0.01, dim=1)

    def texts(self, sentences: list[str]) -> Tensor:
        counts = [[sentence.count(letter) + 1.0 for letter in "rgb"] for sentence in sentences]
        return normalize(torch.tensor(counts), dim=1)


class Corner(Locator):
    """The upper left quarter of a picture whose first pixel is bright, else not found."""

    @property
    def name(self) -> str:
        return "corner"

    def boxes(self, pictures: Tensor, class_word: str) -> Boxes:
        assert class_word == "dog"
        found = pictures[:, :, 0, 0].mean(dim=1) > 0.5
        quarter, whole = torch.tensor([0.0, 0, 4, 4]), torch.tensor([0.0, 0, 8, 8])
        return Boxes(torch.where(found[:, None], quarter, whole), found)


class Truth(nn.Module):
    """Says that a picture is red to the degree it is, and always a dog."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.names: dict[str, tuple[str, ...]] = {"colour": ("red", "other"), "class_word": ("dog", "cat")}
        self.bias = nn.Parameter(torch.tensor(bias))

    def probabilities(self, pictures: Tensor) -> dict[str, Tensor]:
        red = pictures[:, 0].mean(dim=(1, 2))
        dog = torch.full_like(red, 0.9)
        return {"colour": torch.stack([red, 1 - red], 1), "class_word": torch.stack([dog, 1 - dog], 1)}


DRAW = torch.Generator().manual_seed(0)
PHOTOS = torch.rand(3, 3, 8, 8, generator=DRAW)
PROMPTS = (
    Prompt("a {} in the snow", "context", asked={"colour": "red"}, own={"class_word": "dog"}),
    Prompt("a green {}", "property", own={"colour": "other", "class_word": "dog"}),
)
REX = Subject("rex", "dog", "rgb", PHOTOS[:1], PHOTOS, PROMPTS, "f" * 64)
SCORER = Scorer(Colours(), Corner(), Truth())


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, list[Request]]:
    requests = requests_for(REX, [0, 4])
    for request in requests:
        write_image(tmp_path / request.file, torch.rand(3, 8, 8, generator=DRAW))
    return tmp_path, requests


def evaluate(
    scorer: Scorer, folder: Path, requests: list[Request], batch: int, subject: Subject = REX, precision: Any = None
) -> list[dict[str, Any]]:
    stage = EvaluationModule(scorer, subject, requests, folder)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", precision=precision, **quiet)
    trainer.test(stage, index_loader(len(requests), batch), verbose=False)
    return stage.rows


def quarter_where_bright(picture: Tensor) -> Tensor:
    return picture[:, :4, :4] if picture[:, 0, 0].mean() > 0.5 else picture


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double())


def test_every_row_equals_a_plain_loop(pictures: tuple[Path, list[Request]]) -> None:
    folder, requests = pictures
    rows = evaluate(SCORER, folder, requests, batch=3)
    colours = Colours()
    assert [row["file"] for row in rows] == [request.file for request in requests]
    for row, request in zip(rows, requests, strict=True):
        (picture,) = read_images([folder / request.file])
        (feature,) = colours.images(picture[None])
        (local,) = colours.images(quarter_where_bright(picture)[None])
        references = [colours.images(photo[None])[0] for photo in PHOTOS]
        regions = [colours.images(quarter_where_bright(photo)[None])[0] for photo in PHOTOS]
        expected = {
            "clip_t": cosine(feature, colours.texts([request.judged_text])[0]),
            "clip_i": sum(cosine(feature, reference) for reference in references) / 3,
            "local_clip_i": sum(cosine(local, region) for region in regions) / 3,
            "subject_found": float(picture[:, 0, 0].mean() > 0.5),
            "oracle_class": 0.9,
        }
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-5)
        assert (row["prompt"], row["kind"], row["noise_seed"]) == (request.prompt, request.kind, request.seed)


class Projected(Colours):
    """Mean colours through a matrix, which autocast would round."""

    def images(self, pictures: Tensor) -> Tensor:
        return normalize(
            super().images(pictures) @ torch.tensor([[1.0, 0.3, 0.1], [0.2, 1, 0.7], [0.4, 0.5, 1]]), dim=1
        )


def test_judges_compute_in_float32_whatever_the_precision_of_the_trainer_is(
    pictures: tuple[Path, list[Request]],
) -> None:
    folder, requests = pictures
    scorer = Scorer(Projected(), Corner(), Truth())
    whole, half = (evaluate(scorer, folder, requests, 3, precision=name) for name in ("32-true", "bf16-mixed"))
    assert [row["clip_t"] for row in half] == [row["clip_t"] for row in whole]
    assert [row["local_clip_i"] for row in half] == [row["local_clip_i"] for row in whole]


def test_the_oracle_is_asked_for_what_the_prompt_names_and_for_what_it_leaves(
    pictures: tuple[Path, list[Request]],
) -> None:
    folder, requests = pictures
    for row, request in zip(evaluate(SCORER, folder, requests, 4), requests, strict=True):
        red = float(read_images([folder / request.file])[0, 0].mean())
        if request.prompt == "a {} in the snow":  # asks for red; of its own only the class is left, which counts apart
            assert row["oracle_prompt"] == pytest.approx(red, abs=1e-5)
            assert row["oracle_subject"] != row["oracle_subject"]
        else:
            assert row["oracle_prompt"] != row["oracle_prompt"]
            assert row["oracle_subject"] == pytest.approx(1 - red, abs=1e-5)


def test_rows_do_not_depend_on_the_batch(pictures: tuple[Path, list[Request]]) -> None:
    folder, requests = pictures
    together, alone = (evaluate(SCORER, folder, requests, batch) for batch in (4, 1))
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, nan_ok=True, abs=1e-6)


def test_without_an_oracle_there_are_no_oracle_columns(pictures: tuple[Path, list[Request]]) -> None:
    folder, requests = pictures
    rows = evaluate(Scorer(Colours(), WholeImage()), folder, requests, 4)
    assert set(rows[0]) == {
        *("prompt", "kind", "noise_seed", "file"),
        *("clip_t", "clip_i", "local_clip_i", "subject_found", "diversity"),
    }
    assert all(row["local_clip_i"] == pytest.approx(row["clip_i"]) for row in rows)


def test_masks_tell_where_references_show_the_subject_and_change_nothing_else(
    pictures: tuple[Path, list[Request]],
) -> None:
    folder, requests = pictures
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[:, 5:8, 5:8] = True  # with its margin a square of 4 pixels, in the corner
    without = evaluate(SCORER, folder, requests, 4)
    rows = evaluate(SCORER, folder, requests, 4, replace(REX, reference_masks=masks))
    regions = Colours().images(PHOTOS[:, :, 4:, 4:])
    for row, before, request in zip(rows, without, requests, strict=True):
        (picture,) = read_images([folder / request.file])
        (local,) = Colours().images(quarter_where_bright(picture)[None])
        assert row.pop("local_clip_i") == pytest.approx(sum(cosine(local, region) for region in regions) / 3, abs=1e-5)
        del before["local_clip_i"]
        assert row == pytest.approx(before, nan_ok=True)


def test_the_name_tells_encoder_locator_and_the_weights_of_the_oracle() -> None:
    assert Scorer(Colours(), WholeImage()).name == "mean colours | whole image"
    one, same, other = (Scorer(Colours(), Corner(), Truth(bias)).name for bias in (0.0, 0.0, 1.0))
    assert one == same != other
    assert one.startswith("mean colours | corner | toy oracle ")


def test_all_judges_move_with_the_stage() -> None:
    stage = EvaluationModule(SCORER, REX, requests_for(REX, [0]), Path())
    truth = SCORER.oracle
    assert isinstance(truth, Truth)
    assert any(parameter is truth.bias for parameter in stage.parameters())


def test_a_picture_that_is_gone_is_named(pictures: tuple[Path, list[Request]]) -> None:
    folder, requests = pictures
    with pytest.raises(UserError, match=r"elsewhere\.png: it is not there"):
        evaluate(SCORER, folder, [replace(requests[0], file="elsewhere.png")], 1)
