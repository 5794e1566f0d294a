"""Evaluation beyond CLIP: DINO's columns, diversity over seeds, what is kept of the prior, grey backgrounds, caches."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn.functional import normalize

from quantbooth.data.subjects import Prompt, Subject
from quantbooth.evaluation.encoders import Encoder, ImageEncoder
from quantbooth.evaluation.locators import Boxes, Locator, WholeImage
from quantbooth.evaluation.module import EvaluationModule
from quantbooth.evaluation.scorer import Scorer
from quantbooth.runtime.draws import index_loader
from quantbooth.runtime.errors import UserError
from quantbooth.sampling.image_set import UNRELATED, Request, read_images, requests_for, write_image
from quantbooth_toyworld.judges import load_locator, load_oracle, load_scorer
from quantbooth_toyworld.shipped import judges_folder
from quantbooth_toyworld.subjects import toy_subject

DRAW = torch.Generator().manual_seed(0)
PHOTOS = torch.rand(3, 3, 8, 8, generator=DRAW)
REX = Subject("rex", "dog", "rgb", PHOTOS[:1], PHOTOS, (Prompt("a {}", "plain"), Prompt("a red {}", "property")), "f")
OTHERS = [Request(f"unrelated-{n}.png", text, text, text, UNRELATED, 0) for n, text in enumerate(("a cat", "a fish"))]


class Colours(Encoder):
    """Features are mean colours; a text's are those of its letters, and it counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.pictures = 0

    @property
    def name(self) -> str:
        return "mean colours"

    def images(self, pictures: Tensor) -> Tensor:
        self.pictures += len(pictures)
        return normalize(pictures.mean(dim=(2, 3)) + 0.01, dim=1)

    def texts(self, sentences: list[str]) -> Tensor:
        self.asked += sentences
        return normalize(torch.tensor([[text.count(letter) + 1.0 for letter in "rgb"] for text in sentences]), dim=1)


class Edges(ImageEncoder):
    """Features are the first and last pixel's colours."""

    @property
    def name(self) -> str:
        return "edges"

    def images(self, pictures: Tensor) -> Tensor:
        return normalize(torch.cat([pictures[:, :, 0, 0], pictures[:, :, -1, -1]], dim=1) + 0.01, dim=1)


class Corner(Locator):
    """The upper left quarter, of which the left half is the subject's."""

    tells_pixels = True

    @property
    def name(self) -> str:
        return "corner"

    def boxes(self, pictures: Tensor, class_word: str) -> Boxes:
        masks = torch.zeros(len(pictures), 8, 8, dtype=torch.bool)
        masks[:, :4, :2] = True
        box = torch.tensor([0.0, 0, 4, 4]).repeat(len(pictures), 1)
        return Boxes(box, torch.ones(len(pictures), dtype=torch.bool), masks)


def evaluate(stage: EvaluationModule, batch: int) -> list[dict[str, Any]]:
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.test(stage, index_loader(len(stage.requests), batch), verbose=False)
    return stage.rows


def written(folder: Path, requests: Sequence[Request]) -> Path:
    folder.mkdir()
    for request in requests:
        write_image(folder / request.file, torch.rand(3, 8, 8, generator=DRAW))
    return folder


def test_dino_has_columns_of_its_own_and_changes_no_other(tmp_path: Path) -> None:
    requests = requests_for(REX, [0])
    folder = written(tmp_path / "set", requests)
    rows = evaluate(EvaluationModule(Scorer(Colours(), Corner(), dino=Edges()), REX, requests, folder), 2)
    plain = evaluate(EvaluationModule(Scorer(Colours(), Corner()), REX, requests, folder), 2)
    pictures = read_images([folder / request.file for request in requests])
    edges, regions = (
        Edges(),
        lambda shown: torch.nn.functional.interpolate(shown[:, :, :4, :4], (8, 8), mode="bilinear"),
    )
    for number, (row, other) in enumerate(zip(rows, plain, strict=True)):
        whole = (edges.images(pictures)[number] @ edges.images(PHOTOS).T).mean()
        local = (edges.images(regions(pictures))[number] @ edges.images(regions(PHOTOS)).T).mean()
        assert row.pop("dino") == pytest.approx(float(whole), abs=1e-6)
        assert row.pop("local_dino") == pytest.approx(float(local), abs=1e-6)
        assert row == other


@pytest.mark.parametrize("batch", [1, 2, 4, 6])
def test_diversity_is_that_of_the_seeds_of_one_prompt_whatever_the_batch(tmp_path: Path, batch: int) -> None:
    requests = requests_for(REX, [0, 1, 5])
    folder = written(tmp_path / "set", requests)
    rows = evaluate(EvaluationModule(Scorer(Colours(), WholeImage()), REX, requests, folder), batch)
    features = Colours().images(read_images([folder / request.file for request in requests]))
    for number, row in enumerate(rows):
        first = number - number % 3
        others = [k for k in range(first, first + 3) if k != number]
        expected = 1 - sum(float(features[number] @ features[k]) for k in others) / 2
        assert row["diversity"] == pytest.approx(expected, abs=1e-6)


def test_a_single_seed_has_no_diversity(tmp_path: Path) -> None:
    requests = requests_for(REX, [3])
    rows = evaluate(
        EvaluationModule(Scorer(Colours(), WholeImage()), REX, requests, written(tmp_path / "s", requests)), 2
    )
    assert all("diversity" not in row for row in rows)


def test_pictures_of_other_prompts_tell_what_is_kept_and_nothing_else(tmp_path: Path) -> None:
    requests = [*requests_for(REX, [0]), *OTHERS]
    tuned, untuned = (written(tmp_path / name, requests) for name in ("tuned", "untuned"))
    scorer = Scorer(Colours(), WholeImage())
    rows = evaluate(EvaluationModule(scorer, REX, requests, tuned, untuned), 3)
    assert [row["file"] for row in rows] == [request.file for request in requests]
    assert ["prior_kept" in row for row in rows] == [False, False, True, True]
    assert ["clip_t" in row for row in rows] == [True, True, False, False]
    for row, request in zip(rows[2:], OTHERS, strict=True):
        one, other = (Colours().images(read_images([place / request.file]))[0] for place in (tuned, untuned))
        assert row["prior_kept"] == pytest.approx(float(one @ other), abs=1e-6)
    same = evaluate(EvaluationModule(scorer, REX, requests, untuned, untuned), 3)
    assert [row["prior_kept"] for row in same[2:]] == pytest.approx([1.0, 1.0], abs=1e-6)
    alone = evaluate(EvaluationModule(scorer, REX, requests[:2], tuned), 3)
    assert alone == rows[:2]
    with pytest.raises(ValueError, match="need those of the untuned base to compare with, got none"):
        evaluate(EvaluationModule(scorer, REX, requests, tuned), 3)


def test_a_background_masked_out_is_grey_in_pictures_and_references(tmp_path: Path) -> None:
    requests = requests_for(REX, [0])
    folder = written(tmp_path / "set", requests)
    scorer = Scorer(Colours(), Corner(), mask_background=True)
    rows = evaluate(EvaluationModule(scorer, REX, requests, folder), 2)
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[:, :3, :2] = True  # a square of 4 pixels with its margin

    def region(shown: Tensor, rows: int) -> Tensor:
        grey = torch.full_like(shown, 0.5)
        grey[:, :, :rows, :2] = shown[:, :, :rows, :2]
        return Colours().images(torch.nn.functional.interpolate(grey[:, :, :4, :4], (8, 8), mode="bilinear"))

    pictures = read_images([folder / request.file for request in requests])
    expected = (region(pictures, 4) @ region(PHOTOS, 4).T).mean(1)
    assert [row["local_clip_i"] for row in rows] == pytest.approx(expected.tolist(), abs=1e-5)
    known = evaluate(EvaluationModule(scorer, replace(REX, reference_masks=masks), requests, folder), 2)
    expected = (region(pictures, 4) @ region(PHOTOS, 3).T).mean(1)
    assert [row["local_clip_i"] for row in known] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_background_that_no_locator_tells_is_refused_before_work() -> None:
    told = r"^scorer\.mask_background=true needs a locator .*, whole image .*; choose toy"
    with pytest.raises(UserError, match=told):
        Scorer(Colours(), WholeImage(), mask_background=True)


def test_sentences_and_references_are_encoded_once(tmp_path: Path) -> None:
    requests, colours = requests_for(REX, [0, 1, 2, 3]), Colours()
    evaluate(EvaluationModule(Scorer(colours, WholeImage()), REX, requests, written(tmp_path / "s", requests)), 3)
    assert colours.asked == ["a dog", "a red dog"]
    assert colours.pictures == 2 * (3 + 8)  # whole and region: references once, each picture once


def test_every_metric_says_what_it_was_measured_with() -> None:
    told = Scorer(Colours(), Corner(), load_oracle(judges_folder()), Edges(), mask_background=True).measured_with
    assert told["clip_t"] == "mean colours: picture with prompt, the class word alone for the subject"
    assert told["local_clip_i"] == "mean colours: the same on regions by corner, background grey"
    assert told["local_dino"].startswith("edges: ")
    assert told["subject_found"] == "corner, background grey"
    assert {"clip_i", "dino", "diversity", "prior_kept", "oracle_subject", "oracle_class"} < set(told)
    assert "dino" not in Scorer(Colours(), Corner()).measured_with


def test_what_an_oracle_says_is_told_apart_by_its_weights() -> None:
    oracle = load_oracle(judges_folder())
    assert isinstance(oracle, nn.Module)
    before = Scorer(Colours(), Corner(), oracle).measured_with
    with torch.no_grad():
        next(oracle.parameters()).add_(1)
    after = Scorer(Colours(), Corner(), oracle).measured_with
    changed = {name for name, told in after.items() if told != before[name]}
    assert changed == {"oracle_subject", "oracle_prompt", "oracle_class"}


def test_masks_of_references_are_told() -> None:
    masked = replace(REX, reference_masks=torch.ones(3, 8, 8, dtype=torch.bool))
    stages = [EvaluationModule(Scorer(Colours(), Corner()), subject, [], Path()) for subject in (REX, masked)]
    told = [stage.measured_with["local_clip_i"].partition(": ")[2] for stage in stages]
    assert told == ["the same on regions by corner", "the same on regions by corner, references by their masks"]
    assert stages[0].measured_with["clip_i"] == stages[1].measured_with["clip_i"]


def test_the_name_tells_dino_and_background() -> None:
    assert Scorer(Colours(), Corner(), dino=Edges()).name == "mean colours | corner | edges"
    assert Scorer(Colours(), Corner(), mask_background=True).name == "mean colours | corner, background grey"
    stage = EvaluationModule(Scorer(Colours(), Corner(), dino=Edges()), REX, [], Path())
    assert [type(judge).__name__ for judge in stage.judges] == ["Colours", "Corner", "Edges"]  # all move together


def test_rows_of_the_toy_judges_are_the_same_at_batches_of_1_and_8(tmp_path: Path) -> None:
    subject, folder = toy_subject("toy_mug", "sks"), judges_folder()
    requests = requests_for(subject, [0], every=2)
    for place, request in enumerate(requests):
        write_image(tmp_path / request.file, subject.references[place])
    scorer = Scorer(load_scorer(folder), load_locator(folder), load_oracle(folder))
    one, eight = (evaluate(EvaluationModule(scorer, subject, requests, tmp_path), batch) for batch in (1, 8))
    for left, right in zip(one, eight, strict=True):
        names = [name for name, value in left.items() if isinstance(value, float)]
        assert len(names) == 7
        assert [left[n] for n in names] == pytest.approx([right[n] for n in names], nan_ok=True, rel=0, abs=1e-5)
