"""Making a calibration set: on disk is what the source gives, again bit for bit, with a batch at a time in memory."""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantbooth.calibration.calibration_set import CalibrationSet, generate_calibration_set, write_states
from quantbooth.calibration.sources import SOURCES, PromptBatch, batches, kept_steps, source_of
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.sampler import Sampler
from quantbooth.runtime.lightning import Loop

SAMPLER, KEPT = Sampler("ddim", 5, 3.0), 3
TEXTS = ("a red mug", "a duck on the beach", "a red mug", "a photo of duck", "a photo of a red duck")
SEEDS = (3, 3, 4, 3, 3)
Draw = Callable[..., CalibrationSet]


@pytest.fixture
def draw(tmp_path: Path, small_base: Base, loop: Loop) -> Draw:
    """Makes a set; the true pictures are noise."""

    def run(name: str, source: str = "sampler", seeds: Sequence[int] = SEEDS, batch: int = 2) -> CalibrationSet:
        folder = tmp_path / name
        folder.mkdir()
        pictures = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        asked = batches(PromptBatch(TEXTS, tuple(seeds), pictures), batch)
        generate_calibration_set(small_base, source_of(source, SAMPLER), asked, KEPT, folder, loop, "drawing")
        return CalibrationSet(folder)

    return run


def states(found: CalibrationSet) -> Tensor:
    """x_t by prompt, timestep, and whether the text is the empty one."""
    x = found.batch(range(len(found))).x
    return x.unflatten(0, (len(TEXTS), KEPT, 2))


def test_items_are_what_the_source_gives_with_each_prompts_own_text_and_with_none(draw: Draw, small_base: Base) -> None:
    found = draw("one")
    items, source = found.batch(range(len(found))), source_of("sampler", SAMPLER)
    assert len(found) == len(TEXTS) * KEPT * 2
    given = torch.cat([source.states(small_base, part, KEPT) for part in batches(PromptBatch(TEXTS, SEEDS), 2)])
    assert torch.equal(states(found)[:, :, 0], given)
    assert torch.equal(states(found)[:, :, 1], given)
    own, none = (small_base.encode_prompts(texts).tokens for texts in (TEXTS, ["", "a duck"]))
    text = items.conditioning.tokens.unflatten(0, (len(TEXTS), KEPT, 2))
    torch.testing.assert_close(text[:, :, 0], own[:, None].expand_as(text[:, :, 0]))
    torch.testing.assert_close(text[:, :, 1], none[0].expand_as(text[:, :, 1]))
    assert (text[:, :, 0] - text[:, :, 1]).abs().amax((-1, -2)).min() > 0.01


def test_every_kept_timestep_is_covered_by_every_prompt(draw: Draw, small_base: Base) -> None:
    found = draw("one")
    t = found.batch(range(len(found))).t.unflatten(0, (len(TEXTS), KEPT, 2))
    steps = SAMPLER.new_scheduler(small_base).timesteps[kept_steps(SAMPLER.steps, KEPT)].float()
    assert torch.equal(t, steps[None, :, None].expand_as(t))
    assert len(set(steps.diff().tolist())) == 1


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_seeds_give_the_same_files_and_others_others(draw: Draw, source: str) -> None:
    one, again, other = draw("one", source), draw("again", source), draw("other", source, (3, 3, 4, 3, 9))
    names = sorted(file.name for file in one.folder.iterdir())
    assert names == ["set.json", *(f"states-0000{shard}.safetensors" for shard in range(3)), "texts.safetensors"]
    assert all((one.folder / name).read_bytes() == (again.folder / name).read_bytes() for name in names)
    assert torch.equal(states(one)[:4], states(other)[:4])
    assert (states(one)[4] - states(other)[4]).abs().mean() > 0.1


@pytest.mark.parametrize("source", SOURCES)
def test_the_size_of_a_batch_changes_rounding_at_most(draw: Draw, source: str) -> None:
    one, other = draw("one", source, batch=2), draw("other", source, batch=4)
    torch.testing.assert_close(states(one), states(other), rtol=1e-4, atol=1e-4)
    indices = range(len(one))
    left, right = (found.batch(indices).conditioning.tokens for found in (one, other))
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


def test_memory_does_not_grow_with_the_number_of_batches(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = []

    def noted(folder: Path, shard: int, given: Tensor) -> None:
        gc.collect()
        tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
        alive.append(sum({t.data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values()))
        write_states(folder, shard, given)

    monkeypatch.setattr("quantbooth.calibration.calibration_set.write_states", noted)
    draw("one", batch=1)
    assert len(alive) == len(TEXTS)
    assert max(alive) == min(alive)


def test_one_batch_of_sentences_is_encoded_at_a_time(draw: Draw, small_base: Base) -> None:
    sizes: list[int] = []
    hook = small_base.text_encoder.register_forward_pre_hook(lambda _encoder, args: sizes.append(len(args[0])))
    try:
        draw("one", "normal", batch=2)
    finally:
        hook.remove()
    assert sizes == [2, 2, 1]
