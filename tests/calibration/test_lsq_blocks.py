"""Activations block by block: all points quantized, no block worse, stopped and resumed bit for bit; ranges alone."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from quantbooth.calibration.blocks import Block
from quantbooth.calibration.calibration_set import CalibrationSet
from quantbooth.calibration.fake_quantizers import fake_quantizers
from quantbooth.calibration.lsq import LSQ_ERRORS, LSQCalibration, LSQConfig
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.unet import concatenations
from quantbooth.quant.activations import ActivationBits, ActivationQuantizer
from quantbooth.quant.format import Grid
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.surgery import quantize_
from quantbooth.runtime.lightning import Loop
from quantbooth.store.progress import Progress

pytestmark = pytest.mark.chain

RECIPE = LSQConfig(momentum=0.9, batch=4, iterations=8, learning_rate=0.02, lp_norm=2.4, seed=0)
SOME = ("up_blocks.0.resnets.0.", "up_blocks.0.attentions.0.")
BITS = ActivationBits(4, 16)
Errors = list[tuple[Block, Mapping[str, float]]]
Make = Callable[..., LSQCalibration]
QuietTrainer = Callable[[int], Callable[[str], Trainer]]


class Stopped(Exception):
    """Somebody ended the process."""


@pytest.fixture
def make(small_base: Base, items: CalibrationSet, loop: Loop, quiet_trainer: QuietTrainer) -> Make:
    def made(**changes: Any) -> LSQCalibration:
        denoiser = deepcopy(small_base.denoiser)
        splits = {name: sizes for name, sizes in concatenations(denoiser).items() if name.startswith(SOME)}
        quantize_(denoiser, MinMaxObserver(Grid(8)), include=[f"{name}*" for name in SOME], splits=splits)
        return LSQCalibration(
            small_base.with_denoiser(denoiser),
            BITS,
            replace(RECIPE, **changes),
            items,
            loop,
            quiet_trainer(RECIPE.iterations),
        )

    return made


def run(work: LSQCalibration, folder: Path, base: Base, stop: int | None = None) -> Errors:
    done: Errors = []

    def note(number: int, block: Block, errors: Mapping[str, float]) -> None:
        assert number == len(done)
        done.append((block, errors))
        if number == stop:
            raise Stopped

    work.run(Progress(folder), lambda: base, note)
    return done


def predictions(denoiser: Any, items: CalibrationSet) -> Tensor:
    some = items.batch(range(len(items)))
    with torch.no_grad():
        found: Tensor = denoiser(some.x, some.t, encoder_hidden_states=some.conditioning.tokens).sample
    return found


def test_every_point_is_quantized_and_learned_in_the_block_it_lies_in(
    make: Make, small_base: Base, tmp_path: Path
) -> None:
    work, watched = make(), make(iterations=0)
    run(watched, tmp_path / "watched", small_base)
    done = run(work, tmp_path / "work", small_base)
    assert {type(point) for point in fake_quantizers(work.quantized.denoiser).values()} == {ActivationQuantizer}
    ours, theirs = work.quantized.denoiser.state_dict(), watched.quantized.denoiser.state_dict()
    better = [block.name for block, errors in done if errors["activations_learned"] < errors["activations_watched"]]
    assert len(better) > len(done) / 2
    changed = {name for name, value in ours.items() if not torch.equal(value, theirs[name])}
    scales = {f"{name}.scale" for name in fake_quantizers(work.quantized.denoiser)}
    assert changed == {name for name in scales if name.startswith(tuple(f"{block}." for block in better))}
    assert any(name.endswith("processor.query.scale") for name in scales)


def test_the_kept_scales_have_the_smaller_of_both_errors(
    make: Make, small_base: Base, items: CalibrationSet, tmp_path: Path
) -> None:
    """Of the last block, whose inputs are those of the finished denoiser, by hooks."""
    work = make()
    block, errors = run(work, tmp_path / "work", small_base)[-1]
    caught: dict[str, Tensor] = {}
    for key, denoiser in (("ours", work.quantized.denoiser), ("float", small_base.denoiser)):
        module = denoiser.get_submodule(block.name)
        hook = module.register_forward_hook(lambda _m, _i, y, key=key: caught.update({key: y}))
        predictions(denoiser, items)
        hook.remove()
    gap = (caught["ours"] - caught["float"]).abs().pow(2.4)
    assert set(errors) == set(LSQ_ERRORS)
    assert min(errors.values()) == pytest.approx(float(gap.sum(1 if gap.ndim == 4 else -1).mean()), rel=1e-4)


@pytest.mark.parametrize("stop", [0, 2])
def test_stopped_and_resumed_is_the_same_bit_for_bit(
    make: Make, small_base: Base, items: CalibrationSet, tmp_path: Path, stop: int
) -> None:
    through = make()
    whole = run(through, tmp_path / "through", small_base)
    torch.manual_seed(99)
    with pytest.raises(Stopped):
        run(make(), tmp_path / "work", small_base, stop)
    assert len(list((tmp_path / "work").iterdir())) == 1 + stop + 1
    resumed = make()
    assert run(resumed, tmp_path / "work", small_base) == whole
    ours, theirs = resumed.quantized.denoiser.state_dict(), through.quantized.denoiser.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert torch.equal(predictions(resumed.quantized.denoiser, items), predictions(through.quantized.denoiser, items))


def test_what_is_done_is_not_done_again(
    make: Make, small_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make(), tmp_path / "work", small_base)
    for verb in ("fit", "predict"):
        monkeypatch.setattr(Trainer, verb, lambda *_, **__: pytest.fail("done again"))
    run(make(), tmp_path / "work", small_base)


def test_ranges_alone_need_no_float_denoiser_and_hold_what_passes(
    make: Make, items: CalibrationSet, tmp_path: Path
) -> None:
    work = make(iterations=0)
    before = predictions(work.quantized.denoiser, items)
    work.run(Progress(tmp_path / "work"), lambda: pytest.fail("asked for"), lambda *_: pytest.fail("told"))
    after = predictions(work.quantized.denoiser, items)
    gap = float((after - before).norm() / before.norm())
    assert 0 < gap < 0.2
    layers: list[Any] = [layer for _, layer in quantized_layers(work.quantized.denoiser)]
    assert all(len(layer.input_quantizer.scale) == (len(layer.split) or 1) for layer in layers)
