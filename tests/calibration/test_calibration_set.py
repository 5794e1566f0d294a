"""The calibration set on disk: items by place, each prompt with its own text and with none; damage in one line."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantbooth.calibration.calibration_set import CalibrationSet, sentences, write_states, write_texts
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.runtime.errors import UserError

PROMPTS, TIMES, SHARD = ["one", "two", "drei – 3"], [900.0, 500.5], 2


@pytest.fixture
def states(generator: torch.Generator) -> Tensor:
    return torch.randn(3, 2, 4, 3, 3, generator=generator)


@pytest.fixture
def texts(generator: torch.Generator) -> Conditioning:
    return Conditioning(torch.randn(4, 5, 6, generator=generator))


@pytest.fixture
def folder(tmp_path: Path, states: Tensor, texts: Conditioning) -> Path:
    for shard, part in enumerate(states.split(SHARD)):
        write_states(tmp_path, shard, part)
    write_texts(tmp_path, PROMPTS, texts, TIMES, SHARD)
    return tmp_path


def test_items_are_every_prompt_at_every_timestep_with_text_and_without(
    folder: Path, states: Tensor, texts: Conditioning
) -> None:
    found = CalibrationSet(folder)
    assert len(found) == 12
    items = found.batch(range(12))
    place = 0
    for prompt in range(3):
        for time in range(2):
            for text in (texts.tokens[1 + prompt], texts.tokens[0]):
                assert torch.equal(items.x[place], states[prompt, time])
                assert items.t[place] == TIMES[time]
                assert torch.equal(items.conditioning.tokens[place], text)
                place += 1


def test_items_come_in_the_order_they_are_asked_for(folder: Path) -> None:
    found, order = CalibrationSet(folder), [11, 0, 5, 5]
    whole, some = found.batch(range(12)), found.batch(order)
    assert torch.equal(some.x, whole.x[order])
    assert torch.equal(some.t, whole.t[order])
    assert torch.equal(some.conditioning.tokens, whole.conditioning.tokens[order])


def test_a_sentence_is_kept_once_however_often_it_is_asked(tmp_path: Path, states: Tensor, texts: Conditioning) -> None:
    prompts = ["two", "one", "two"]
    assert sentences(prompts) == ["", "two", "one"]
    write_states(tmp_path, 0, states)
    write_texts(tmp_path, prompts, texts[:3], TIMES, 3)
    found = CalibrationSet(tmp_path).batch([0, 4, 8, 9])
    assert torch.equal(found.conditioning.tokens, texts.tokens[[1, 2, 1, 0]])
    assert torch.equal(found.x, states[[0, 1, 2, 2], 0])


@pytest.mark.parametrize("place", [-1, 12])
def test_a_place_outside_is_no_damage(folder: Path, place: int) -> None:
    with pytest.raises(IndexError, match=rf"indices must be in \[0, 12\), got {place}"):
        CalibrationSet(folder).batch([0, place])


def test_files_of_another_set_are_refused(folder: Path, states: Tensor, texts: Conditioning) -> None:
    write_states(folder, 1, states)
    with pytest.raises(UserError, match=r"states-00001.safetensors must have \[1, 2\] .* found \[3, 2\]"):
        CalibrationSet(folder)
    write_states(folder, 1, states[2:])
    write_texts(folder, PROMPTS, texts[:3], TIMES, SHARD)
    with pytest.raises(UserError, match=r"texts.safetensors must have 4 texts, found 3"):
        CalibrationSet(folder)


@pytest.mark.parametrize(
    "file", ["set.json", "texts.safetensors", "states-00000.safetensors", "states-00001.safetensors"]
)
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_set_is_refused_in_one_line(folder: Path, file: str, damage: str) -> None:
    if damage == "missing":
        (folder / file).unlink()
    else:
        (folder / file).write_bytes((folder / file).read_bytes()[:20])
    with pytest.raises(
        UserError, match=r"^the calibration set .*cannot be read: .*remove that folder and calibrate again$"
    ):
        CalibrationSet(folder)


def test_states_lying_across_come_back(tmp_path: Path, states: Tensor, texts: Conditioning) -> None:
    across = states.transpose(3, 4).contiguous().transpose(3, 4)
    assert not across.is_contiguous()
    write_states(tmp_path, 0, across)
    write_texts(tmp_path, PROMPTS, texts, TIMES, 3)
    assert torch.equal(CalibrationSet(tmp_path).batch([0]).x[0], states[0, 0])
