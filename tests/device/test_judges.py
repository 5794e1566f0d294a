"""Judges on a device: features and boxes of the CPU, and more pictures do not make it wait more often."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.random_base import write_clip
from pretend import DEVICE, Looks
from quantbooth.data.subjects import Prompt, Subject
from quantbooth.evaluation.attention_locator import AttentionLocator
from quantbooth.evaluation.encoders import DinoEncoder, ImageEncoder, OpenClipEncoder
from quantbooth.evaluation.locators import Boxes, Locator, WholeImage
from quantbooth.evaluation.module import EvaluationModule
from quantbooth.evaluation.scorer import Scorer
from quantbooth.evaluation.text_locators import ClipSegLocator, Owlv2Locator
from quantbooth.sampling.image_set import requests_for, write_image
from quantbooth_toyworld.judges import load_locator, load_oracle, load_scorer
from quantbooth_toyworld.shipped import base_folder, judges_folder

pytestmark = pytest.mark.device

Write = Callable[[str], Path]
LOCATORS: dict[str, Callable[[Write], Locator]] = {
    "attention": lambda _: AttentionLocator(base_folder(), [100, 400], 0.35),
    "clipseg": lambda network: ClipSegLocator(network("clipseg"), threshold=0.5),
    "owlv2": lambda network: Owlv2Locator(network("owlv2"), threshold=1e-6),
    "toy": lambda _: load_locator(judges_folder()),
    "whole": lambda _: WholeImage(),
}
ENCODERS: dict[str, Callable[[Write, Path], ImageEncoder]] = {
    "clip": lambda _, place: clip(place),
    "dino": lambda network, _: DinoEncoder(network("dino")),
    "dinov2": lambda network, _: DinoEncoder(network("dinov2")),
    "toy": lambda _, __: load_scorer(judges_folder()),
}


def clip(place: Path) -> OpenClipEncoder:
    write_clip(place)
    return OpenClipEncoder(f"local-dir:{place}")


def photos(count: int) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def noted(looks: Looks, work: Callable[[Tensor], Any], first: int = 2) -> Any:
    """Return what comes of twice as many pictures after asserting that it looks as often as with the first."""
    work(photos(first).to(DEVICE))
    counts = []
    for count in (first, 2 * first):
        given, before = photos(count).to(DEVICE), Looks(looks)
        made = work(given)
        counts.append(looks.since(before))
    assert counts[0] == counts[1]
    return made


@pytest.mark.parametrize("name", LOCATORS)
def test_boxes_are_those_of_the_cpu(network: Write, looks: Looks, name: str) -> None:
    locator = LOCATORS[name](network)
    expected = locator.boxes(photos(4), "mug")
    locator.to(DEVICE)
    with torch.no_grad():
        found: Boxes = noted(looks, lambda given: locator.boxes(given, "mug"))
    assert found.xyxy.device == found.found.device == torch.device(DEVICE)
    assert torch.equal(found.found.cpu(), expected.found)
    torch.testing.assert_close(found.xyxy.cpu(), expected.xyxy, rtol=0, atol=0)
    assert (found.masks is None) == (expected.masks is None)
    if found.masks is not None and expected.masks is not None:
        assert torch.equal(found.masks.cpu(), expected.masks)


@pytest.mark.parametrize("name", ENCODERS)
def test_features_are_those_of_the_cpu(network: Write, looks: Looks, tmp_path: Path, name: str) -> None:
    encoder = ENCODERS[name](network, tmp_path)
    with torch.no_grad():
        expected = encoder.images(photos(4))
        encoder.to(DEVICE)
        found = noted(looks, encoder.images)
    assert found.device == torch.device(DEVICE)
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5)


def test_scoring_looks_once_a_column(looks: Looks, tmp_path: Path) -> None:
    prompts = (Prompt("a {} in the snow", "context", asked={"colour": "red"}, own={"class_word": "mug"}),)
    subject = Subject("mug", "mug", "sks", photos(1), photos(2), prompts, "f" * 64)
    scorer = Scorer(load_scorer(judges_folder()), load_locator(judges_folder()), load_oracle(judges_folder()))
    rows = []
    for count in (2, 4):
        requests = requests_for(subject, list(range(count)))
        for request, picture in zip(requests, photos(count), strict=True):
            write_image(tmp_path / request.file, picture)
        for device in ("cpu", DEVICE):
            module = EvaluationModule(deepcopy(scorer), subject, requests, tmp_path).to(device)
            module.on_test_start()
            looks.clear()
            with torch.no_grad():
                module.test_step(list(range(count)))
            rows.append((module.rows, Looks(looks)))
    (cpu, _), (device_rows, most) = rows[2:]
    assert most == rows[1][1]
    assert [set(row) for row in cpu] == [set(row) for row in device_rows]
    for one, other in zip(cpu, device_rows, strict=True):
        numbers = {name for name, value in one.items() if isinstance(value, float)}
        assert {name: other[name] for name in numbers} == pytest.approx(
            {n: one[n] for n in numbers}, abs=1e-5, nan_ok=True
        )
