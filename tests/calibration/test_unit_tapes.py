"""Tapes of units: what both denoisers give, from wherever one begins, with work that grows as units and items do."""

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

from quantbooth.calibration.calibration_set import CalibrationSet
from quantbooth.calibration.replay import Recorder, UnitTapes
from quantbooth.calibration.tape import Tape, caught_inputs, caught_output
from quantbooth.diffusion.base import Base
from quantbooth.quant.surgery import matching
from quantbooth.runtime.errors import UserError

pytestmark = pytest.mark.chain

BATCH = 4
Make = Callable[[], UnitTapes]


@pytest.fixture
def make(small_base: Base, quantized: Callable[[], Any], items: CalibrationSet) -> Make:
    def made() -> UnitTapes:
        base, made = (small_base.with_denoiser(one) for one in (deepcopy(small_base.denoiser), quantized()))
        return UnitTapes(base, made, matching(base.denoiser, ["*"], ["conv_in", "conv_out"]), items, BATCH)

    return made


def rows(tape: Tape) -> list[Tensor]:
    given, target = tape.batch(range(tape.items), torch.device("cpu"))
    return [target, *(value for value in (*given.args, *given.kwargs.values()) if isinstance(value, Tensor))]


def test_a_tape_holds_inputs_of_the_quantized_and_outputs_of_the_float_one(make: Make, tmp_path: Path) -> None:
    tapes = make()
    recorder = Recorder(tapes, tmp_path)
    for number, unit in enumerate(tapes.units):
        with recorder.tape(number) as tape:
            found = rows(tape)
        for start in range(0, len(tapes.items), BATCH):
            places = list(range(start, min(start + BATCH, len(tapes.items))))
            given = caught_inputs(tapes.made.denoiser.get_submodule(unit.name), partial(tapes.run, tapes.made, places))
            target = caught_output(tapes.base.denoiser.get_submodule(unit.name), partial(tapes.run, tapes.base, places))
            values = (*given.args, *given.kwargs.values())
            expected = [target, *(value for value in values if isinstance(value, Tensor))]
            assert all(torch.equal(ours[places], theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("start", [1, 9])
def test_a_recorder_may_begin_anywhere(make: Make, tmp_path: Path, start: int) -> None:
    through, later = (Recorder(make(), tmp_path / name) for name in folders(tmp_path, "through", "later"))
    for number in range(len(through.tapes.units)):
        with through.tape(number) as tape:
            expected = rows(tape)
        if number >= start:
            with later.tape(number) as tape:
                assert all(torch.equal(ours, theirs) for ours, theirs in zip(rows(tape), expected, strict=True))


def test_a_tape_is_gone_after_its_use(make: Make, tmp_path: Path) -> None:
    recorder = Recorder(make(), tmp_path)
    with recorder.tape(0) as tape:
        assert tape.folder.is_dir()
    assert not tape.folder.exists()


def test_a_disk_without_room_is_told_before_any_work(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"^12 items take up to .* GB of disk .* 0.0 GB are free at"):
        Recorder(make(), tmp_path)
    assert not list(tmp_path.glob("**/*.bin"))


@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("layers", ["up_blocks.*", "*"])
def test_work_grows_as_units_and_items(
    make: Make, small_base: Base, quantized: Any, items: CalibrationSet, tmp_path: Path, prompts: int, layers: str
) -> None:
    """Every unit of both denoisers computes every item once; the last of the quantized one, never."""
    denoiser, made = deepcopy(small_base.denoiser), quantized()
    items.prompts = items.prompts[:prompts]
    base, partly = (small_base.with_denoiser(one) for one in (denoiser, made))
    tapes = UnitTapes(base, partly, matching(denoiser, [layers], ["conv_in", "conv_out"]), items, BATCH)
    recorder = Recorder(tapes, tmp_path)
    with computed(tapes.names, denoiser) as theirs, computed(tapes.names, made) as ours:
        for number in range(len(tapes.names)):
            with recorder.tape(number):
                pass
    count = 2 * prompts * len(items.timesteps)
    assert theirs == dict.fromkeys(tapes.names, count)
    assert ours == dict.fromkeys(tapes.names, count) | {tapes.names[-1]: 0}


@contextmanager
def computed(names: list[str], denoiser: nn.Module) -> Iterator[dict[str, int]]:
    """How many items each unit's own forward computes."""
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
