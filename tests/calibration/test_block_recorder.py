"""Caches of blocks: what both denoisers give, from wherever one begins, with work that grows as blocks and items do."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantbooth.calibration.block_cache import BlockCache, capture_inputs, capture_output
from quantbooth.calibration.block_replay import BlockRecorder, DenoiserPair
from quantbooth.calibration.calibration_set import CalibrationSet
from quantbooth.diffusion.base import Base
from quantbooth.quant.surgery import matching
from quantbooth.runtime.errors import UserError

pytestmark = pytest.mark.chain

BATCH = 4
Make = Callable[[], DenoiserPair]


@pytest.fixture
def make(small_base: Base, quantized: Callable[[], Any], items: CalibrationSet) -> Make:
    def made() -> DenoiserPair:
        base, made = (small_base.with_denoiser(one) for one in (deepcopy(small_base.denoiser), quantized()))
        return DenoiserPair(base, made, matching(base.denoiser, ["*"], ["conv_in", "conv_out"]), items, BATCH)

    return made


def rows(cache: BlockCache) -> list[Tensor]:
    given, target = cache.batch(range(cache.items), torch.device("cpu"))
    return [target, *(value for value in (*given.args, *given.kwargs.values()) if isinstance(value, Tensor))]


def test_a_cache_holds_inputs_of_the_quantized_and_outputs_of_the_float_one(make: Make, tmp_path: Path) -> None:
    pair = make()
    recorder = BlockRecorder(pair, tmp_path)
    for number, block in enumerate(pair.blocks):
        with recorder.cache(number) as cache:
            found = rows(cache)
        for start in range(0, len(pair.items), BATCH):
            indices = list(range(start, min(start + BATCH, len(pair.items))))
            given = capture_inputs(
                pair.quantized.denoiser.get_submodule(block.name), partial(pair.run, pair.quantized, indices)
            )
            target = capture_output(pair.base.denoiser.get_submodule(block.name), partial(pair.run, pair.base, indices))
            values = (*given.args, *given.kwargs.values())
            expected = [target, *(value for value in values if isinstance(value, Tensor))]
            assert all(torch.equal(ours[indices], theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("start", [1, 9])
def test_a_recorder_may_begin_anywhere(make: Make, tmp_path: Path, start: int) -> None:
    through, later = (BlockRecorder(make(), tmp_path / name) for name in folders(tmp_path, "through", "later"))
    for number in range(len(through.pair.blocks)):
        with through.cache(number) as cache:
            expected = rows(cache)
        if number >= start:
            with later.cache(number) as cache:
                assert all(torch.equal(ours, theirs) for ours, theirs in zip(rows(cache), expected, strict=True))


def test_a_cache_is_gone_after_its_use(make: Make, tmp_path: Path) -> None:
    recorder = BlockRecorder(make(), tmp_path)
    before = set(tmp_path.rglob("*"))
    with recorder.cache(0) as cache:
        assert cache.nbytes <= sum(path.stat().st_size for path in set(tmp_path.rglob("*")) - before if path.is_file())
    assert {path.parent.name for path in tmp_path.rglob("*.bin")} <= {"float", "quantized"}


def test_a_disk_without_room_is_told_before_any_work(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"^12 items take up to .* GB of disk .* 0.0 GB are free at"):
        BlockRecorder(make(), tmp_path)
    assert not list(tmp_path.glob("**/*.bin"))


@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("layers", ["up_blocks.*", "*"])
def test_work_grows_as_blocks_and_items(
    make: Make, small_base: Base, quantized: Any, items: CalibrationSet, tmp_path: Path, prompts: int, layers: str
) -> None:
    """Every block of both denoisers computes every item once; the last of the quantized one, never."""
    denoiser, made = deepcopy(small_base.denoiser), quantized()
    items.prompts = items.prompts[:prompts]
    base, partly = (small_base.with_denoiser(one) for one in (denoiser, made))
    pair = DenoiserPair(base, partly, matching(denoiser, [layers], ["conv_in", "conv_out"]), items, BATCH)
    recorder = BlockRecorder(pair, tmp_path)
    with computed(pair.names, denoiser) as theirs, computed(pair.names, made) as ours:
        for number in range(len(pair.names)):
            with recorder.cache(number):
                pass
    count = 2 * prompts * len(items.timesteps)
    assert theirs == dict.fromkeys(pair.names, count)
    assert ours == dict.fromkeys(pair.names, count) | {pair.names[-1]: 0}


@contextmanager
def computed(names: list[str], denoiser: nn.Module) -> Iterator[dict[str, int]]:
    """How many items each block's own forward computes."""
    counts = dict.fromkeys(names, 0)

    def counting(name: str, forward: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        counts[name] += len(output)
        return output

    for name in names:
        module = denoiser.get_submodule(name)
        module.forward = partial(counting, name, module.forward)
    yield counts


def folders(top: Path, *names: str) -> Iterator[str]:
    for name in names:
        (top / name).mkdir()
        yield name
