"""Drawing a set: what a stopped run left is kept, and processes that share it leave the same bits."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.sampler import Sampler
from quantbooth.runtime.lightning import trainer
from quantbooth.sampling import module as sampling
from quantbooth.sampling.generation import collect, generate_missing
from quantbooth.sampling.image_set import Request, write_image
from quantbooth.sampling.module import SamplingModule, image_jobs
from quantbooth.store.store import Draft

REQUESTS = [Request(f"{i}.png", text, text, text, "plain", i) for i, text in enumerate(["a mug", "a red duck"] * 3)]
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def stage(base: Base, folder: Path) -> SamplingModule:
    return SamplingModule(base, Sampler("ddim", 2, 4.0), image_jobs(REQUESTS, folder))


def draw_set(drawing: SamplingModule, trainer: Trainer, batch: int | str, made: Draft) -> None:
    """Draw what is missing, then gather the set, as commands do."""
    made.measured.update(found_drawn=sum(generate_missing(drawing, trainer, batch)))
    collect(REQUESTS, made.unfinished, made.path)


def draft(place: Path, name: str) -> Draft:
    """As the store hands it out: hidden beside its destination, two folders below the root."""
    path = place / "image_set" / f".{name}.partial"
    path.mkdir(parents=True)
    return Draft(path, place / "image_set" / name, "f" * 64)


def pictures(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.png"))}


@pytest.fixture
def whole(small_base: Base, tmp_path: Path) -> dict[str, bytes]:
    """The set as one process draws it without a stop."""
    made = draft(tmp_path / "whole", "set")
    draw_set(stage(small_base, made.unfinished), trainer(**QUIET), 2, made)
    assert made.measured["found_drawn"] == 0
    return pictures(made.path)


def test_what_is_unfinished_lies_beside_the_kinds_of_the_store(tmp_path: Path) -> None:
    assert draft(tmp_path, "set-0123").unfinished == tmp_path / "unfinished" / "set-0123"


def test_a_killed_run_goes_on_at_the_batches_that_lack_a_picture(
    small_base: Base, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies with three of six pictures drawn, two at a time: the second batch is drawn again, the first is not."""
    written: list[str] = []

    def dies(path: Path, image: torch.Tensor) -> None:
        if len(written) == 3:
            raise RuntimeError("the process died")
        written.append(path.name)
        write_image(path, image)

    monkeypatch.setattr(sampling, "write_image", dies)
    first = draft(tmp_path / "store", "set")
    with pytest.raises(RuntimeError, match="the process died"):
        draw_set(stage(small_base, first.unfinished), trainer(**QUIET), 2, first)
    assert written == ["0.png", "1.png", "2.png"]
    again: list[str] = []

    def noted(path: Path, image: torch.Tensor) -> None:
        again.append(path.name)
        write_image(path, image)

    monkeypatch.setattr(sampling, "write_image", noted)
    first.path.rmdir()
    second = draft(tmp_path / "store", "set")
    draw_set(stage(small_base, second.unfinished), trainer(**QUIET), 2, second)
    assert again == ["2.png", "3.png", "4.png", "5.png"]
    assert second.measured["found_drawn"] == 3
    assert pictures(second.path) == whole


def test_where_everything_is_drawn_nothing_runs(small_base: Base, tmp_path: Path, whole: dict[str, bytes]) -> None:
    made = draft(tmp_path / "store", "set")
    made.unfinished.mkdir(parents=True)
    for name, data in whole.items():
        (made.unfinished / name).write_bytes(data)
    (made.unfinished / ".123.7.png").write_bytes(b"half a picture of a killed process")

    class Idle(Trainer):
        def predict(self, *_: object, **__: object) -> None:
            raise AssertionError("nothing is missing")

    draw_set(stage(small_base, made.unfinished), Idle(**QUIET), "auto", made)
    assert pictures(made.path) == whole
    assert len(list(made.path.iterdir())) == 6


@pytest.mark.parametrize("batch", [2, 6])
def test_two_processes_share_the_batches_and_leave_the_same_bits(small_base: Base, tmp_path: Path, batch: int) -> None:
    """With a batch of 6 there is one batch, and the other process has nothing to do."""
    sets = []
    for devices in (1, 2):
        made = draft(tmp_path / f"{devices}", "set")
        shared = trainer(shared=True, devices=devices, **QUIET)
        assert shared.world_size == devices
        draw_set(stage(small_base, made.unfinished), shared, batch, made)
        sets.append(pictures(made.path))
    assert len(sets[0]) == 6
    assert sets[0] == sets[1]


def test_the_processes_are_two(small_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each leaves a file with its number beside every picture it draws."""

    def noting(path: Path, image: torch.Tensor) -> None:
        (path.parent / f"{path.stem}.{os.getpid()}").touch()
        write_image(path, image)

    monkeypatch.setattr(sampling, "write_image", noting)
    made = draft(tmp_path, "set")
    draw_set(stage(small_base, made.unfinished), trainer(shared=True, devices=2, **QUIET), 1, made)
    drawn_by = {
        int(file.name.split(".")[0]): file.suffix for file in made.unfinished.iterdir() if file.suffix != ".png"
    }
    assert len(set(drawn_by.values())) == 2
    assert f".{os.getpid()}" not in drawn_by.values()
    assert len({drawn_by[place] for place in (0, 2, 4)}) == len({drawn_by[place] for place in (1, 3, 5)}) == 1
