"""Block after block: every layer quantized once, each block seeing those before it; stopped and resumed bit for bit."""

import gc
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from quantbooth.calibration.adaround import ERRORS, AdaRoundCalibration, AdaRoundConfig, BlockResult
from quantbooth.calibration.calibration_set import CalibrationSet
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.unet import concatenations
from quantbooth.quant.format import Grid
from quantbooth.quant.layers import QuantizedLayer, quantized_layers
from quantbooth.quant.observers import MSEObserver, ScaleSearch
from quantbooth.quant.rounding import LearnedRounding
from quantbooth.quant.surgery import NO_SPLITS, Splits, matching, quantize_
from quantbooth.store.progress import Progress

pytestmark = pytest.mark.chain

SOME = ["up_blocks.*"]
RECIPE = AdaRoundConfig(iterations=12, batch=4, learning_rate=0.05, penalty=0.01, warm_up=0.2, beta=(20, 2), seed=0)
Make = Callable[..., AdaRoundCalibration]
QuietTrainer = Callable[[int], Callable[[str], Trainer]]


class Stopped(Exception):
    """Somebody ended the process."""


@pytest.fixture
def make(small_base: Base, items: CalibrationSet, quiet_trainer: QuietTrainer) -> Make:
    def made(
        search: ScaleSearch | None = None, splits: Splits = NO_SPLITS, denoiser: Any = None
    ) -> AdaRoundCalibration:
        denoiser = deepcopy(small_base.denoiser) if denoiser is None else denoiser
        names = matching(denoiser, SOME, [])
        base = small_base.with_denoiser(denoiser)
        return AdaRoundCalibration(
            base, names, splits, search or MSEObserver(Grid(2)), RECIPE, items, quiet_trainer(RECIPE.iterations)
        )

    return made


def run(rounding: AdaRoundCalibration, folder: Path, stop: int | None = None) -> list[BlockResult]:
    done: list[BlockResult] = []

    def note(number: int, outcome: BlockResult) -> None:
        assert number == len(done)
        done.append(outcome)
        if number == stop:
            raise Stopped

    rounding.run(Progress(folder), note)
    return done


def predictions(denoiser: Any, items: CalibrationSet) -> Tensor:
    some = items.batch(range(len(items)))
    with torch.no_grad():
        found: Tensor = denoiser(some.x, some.t, encoder_hidden_states=some.conditioning.tokens).sample
    return found


def test_every_layer_is_quantized_with_the_scales_of_the_search(make: Make, small_base: Base, tmp_path: Path) -> None:
    rounding = make()
    run(rounding, tmp_path / "work")
    nearest = deepcopy(small_base.denoiser)
    replaced = quantize_(nearest, MSEObserver(Grid(2)), include=SOME)
    assert sorted(record.name for record in rounding.replaced) == sorted(record.name for record in replaced)
    assert {r.name: (r.kind, r.shape, r.bits, r.bytes_before, r.bytes_after) for r in rounding.replaced} == {
        r.name: (r.kind, r.shape, r.bits, r.bytes_before, r.bytes_after) for r in replaced
    }
    theirs = dict(quantized_layers(nearest))
    changed = 0
    for name, layer in quantized_layers(rounding.quantized.denoiser):
        assert torch.equal(layer.scale, theirs[name].scale)
        assert torch.equal(layer.zero, theirs[name].zero)
        gap = (layer.dequantized() - theirs[name].dequantized()) / layer.scale.view(-1, *[1] * (len(layer.shape) - 1))
        assert gap.abs().max() < 1.001
        changed += int((gap.abs() > 0.5).sum())
    assert changed > 0


def test_the_float_one_stays_as_it_is(make: Make, small_base: Base, tmp_path: Path) -> None:
    denoiser = deepcopy(small_base.denoiser)
    run(make(denoiser=denoiser), tmp_path / "work")
    assert all(
        torch.equal(value, small_base.denoiser.state_dict()[name]) for name, value in denoiser.state_dict().items()
    )
    assert not [module for module in denoiser.modules() if isinstance(module, QuantizedLayer)]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in denoiser.modules())


def test_both_share_what_is_float(make: Make) -> None:
    rounding = make()
    ours = {id(tensor) for tensor in rounding.quantized.denoiser.parameters()}
    assert ours == {id(tensor) for tensor in rounding.denoiser.parameters()}


def test_every_block_sees_those_before_it_quantized_and_aims_at_the_float_output(
    make: Make, small_base: Base, items: CalibrationSet, tmp_path: Path
) -> None:
    """The errors told of a block are those of running the denoiser up to it, with blocks after it float still."""
    rounding = make()
    done = run(rounding, tmp_path / "work")
    partly = deepcopy(small_base.denoiser)
    some, caught = items.batch(range(len(items))), {}
    for number, outcome in enumerate(done[:6]):
        name = outcome.block.name
        for layer in outcome.block.layers:
            parent, _, child = layer.rpartition(".")
            setattr(partly.get_submodule(parent), child, rounding.quantized.denoiser.get_submodule(layer))
        for key, denoiser in (("ours", partly), ("float", small_base.denoiser)):
            hook = denoiser.get_submodule(name).register_forward_hook(
                lambda _m, _i, y, key=key: caught.update({key: y})
            )
            with torch.no_grad():
                denoiser(some.x, some.t, encoder_hidden_states=some.conditioning.tokens)
            hook.remove()
        gap = caught["ours"] - caught["float"]
        error = float(gap.square().sum(1 if gap.ndim == 4 else -1).mean())
        assert min(outcome.errors.values()) == pytest.approx(error, rel=1e-3, abs=1e-7), number


def test_no_block_is_left_worse_than_with_the_nearest_codes(make: Make, tmp_path: Path) -> None:
    rounding = make()
    done = run(rounding, tmp_path / "work")
    assert [set(outcome.errors) for outcome in done] == [set(ERRORS)] * len(rounding.blocks)
    better = [outcome.errors["learned"] < outcome.errors["nearest"] for outcome in done]
    assert sum(better) > len(better) / 2


@pytest.mark.parametrize("stop", [0, 7])
def test_stopped_and_resumed_is_the_same_bit_for_bit(
    make: Make, items: CalibrationSet, tmp_path: Path, stop: int
) -> None:
    through = make()
    run(through, tmp_path / "through")
    torch.manual_seed(99)
    with pytest.raises(Stopped):
        run(make(), tmp_path / "work", stop)
    assert len(list((tmp_path / "work").iterdir())) == stop + 1
    resumed = make()
    run(resumed, tmp_path / "work")
    ours, theirs = resumed.quantized.denoiser.state_dict(), through.quantized.denoiser.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert torch.equal(predictions(resumed.quantized.denoiser, items), predictions(through.quantized.denoiser, items))


def test_what_is_done_is_not_done_again(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(make(), tmp_path / "work")
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("learned again"))
    run(make(), tmp_path / "work")


def test_layers_in_parts_have_a_scale_of_each(make: Make, small_base: Base, tmp_path: Path) -> None:
    splits = concatenations(small_base.denoiser)
    rounding = make(splits=splits)
    run(rounding, tmp_path / "work")
    assert {record.name: record.split for record in rounding.replaced if record.split} == splits
    nearest = deepcopy(small_base.denoiser)
    quantize_(nearest, MSEObserver(Grid(2)), include=SOME, splits=splits)
    for name, layer in quantized_layers(nearest):
        assert torch.equal(layer.scale, rounding.quantized.denoiser.get_submodule(name).get_buffer("scale"))


def test_a_block_that_is_done_leaves_nothing_in_memory(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished trainer and its stage are a cycle, which Python would let lie while blocks go by."""
    alive: WeakSet[LearnedRounding] = WeakSet()
    born = LearnedRounding.__init__

    def noted(self: LearnedRounding, *given: Any) -> None:
        born(self, *given)
        alive.add(self)

    monkeypatch.setattr(LearnedRounding, "__init__", noted)
    seen: list[int] = []
    gc.disable()
    try:
        make().run(Progress(tmp_path / "work"), lambda *_: seen.append(len(alive)))
    finally:
        gc.enable()
    assert len(seen) > 5
    assert set(seen) == {0}


def test_nothing_but_progress_is_left_on_the_disk(make: Make, tmp_path: Path) -> None:
    run(make(), tmp_path / "work")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "work"]
    assert {path.suffix for path in (tmp_path / "work").iterdir()} == {".safetensors"}
