"""Learned activation steps of a block: the loss by hand, better than the ranges', the same again from the same seed."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from quantbooth.calibration.block_cache import BlockCache, CallArgs, mapped_rows
from quantbooth.calibration.block_training import BlockTraining
from quantbooth.calibration.lsq import LSQConfig, Scales
from quantbooth.quant.activations import ActivationQuantizer
from quantbooth.quant.format import Grid
from quantbooth.quant.layers import QuantizedLayer, quantized_layers
from quantbooth.quant.observers import MinMaxObserver, MovingAverageMinMaxObserver
from quantbooth.quant.surgery import quantize_
from quantbooth.runtime.draws import generator_for

ITEMS = 24


def config(**changes: Any) -> LSQConfig:
    numbers = {"momentum": 0.9, "batch": 8, "iterations": 100, "learning_rate": 0.02, "lp_norm": 2.4, "seed": 0}
    return LSQConfig(**{**numbers, **changes})


@pytest.fixture
def made(tmp_path: Path, generator: torch.Generator) -> tuple[nn.Module, BlockCache]:
    """Two layers on heavy-tailed inputs, whose whole range is no good range, and what their float twins give."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 5, 1)).requires_grad_(False)
    x, cache = torch.randn(ITEMS, 4, 5, 5, generator=generator) ** 3, BlockCache(tmp_path, ITEMS)
    cache.record(range(ITEMS), CallArgs((x,), {}), block(x))
    quantize_(block, MinMaxObserver(Grid(8)))
    for _, layer in quantized_layers(block):
        layer.input_quantizer = MovingAverageMinMaxObserver(0.9)
    block(x)
    for _, layer in quantized_layers(block):
        assert isinstance(layer.input_quantizer, MovingAverageMinMaxObserver)
        layer.input_quantizer = layer.input_quantizer.quantizer(4)
    return block, cache


class Learning(BlockTraining):
    """With the parameterization by its type."""

    learned: Scales


def stage(made: tuple[nn.Module, BlockCache], **changes: Any) -> Learning:
    block, cache = made
    inside = {name: module for name, module in block.named_modules() if isinstance(module, ActivationQuantizer)}
    return Learning("block", block, Scales(inside, config(**changes)), cache, config(**changes))


def learned(made: Learning) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            max_steps=made.config.iterations,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        made.train_by(trainer)
    return {name: scale.detach() for name, scale in made.learned.tensors().items()}


def test_the_error_is_summed_over_channels_and_averaged_over_the_rest(made: tuple[nn.Module, BlockCache]) -> None:
    block, cache = made
    given, target = cache.batch(range(ITEMS), torch.device("cpu"))
    gap = (block(given.args[0]) - target).double().abs()
    ours = stage(made)
    assert ours.error_of(ours.learned.start) == pytest.approx(float((gap**2.4).sum(1).mean()), rel=1e-5)
    doubled = {name: 2 * scale for name, scale in ours.learned.start.items()}
    assert ours.error_of(doubled) != pytest.approx(ours.error_of(ours.learned.start), rel=1e-2)


@pytest.mark.parametrize("seed", [0, 1])
def test_learned_steps_serve_the_output_better_than_those_of_the_ranges(
    made: tuple[nn.Module, BlockCache], seed: int
) -> None:
    before = {name: value.clone() for name, value in made[0].state_dict().items()}
    ours = stage(made, seed=seed)
    scales = learned(ours)
    assert ours.error_of(scales) < 0.9 * ours.error_of(ours.learned.start)
    assert all(torch.equal(value, before[name]) for name, value in made[0].state_dict().items())
    assert any(isinstance(layer, QuantizedLayer) for layer in made[0])  # type: ignore[attr-defined]  # a Sequential


def test_the_same_seed_learns_the_same_and_scales_stay_positive(made: tuple[nn.Module, BlockCache]) -> None:
    one, other, another = (learned(stage(made, iterations=8, learning_rate=1.0, seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(scale, other[name]) for name, scale in one.items())
    assert any(not torch.equal(scale, another[name]) for name, scale in one.items())
    assert all(float(scale.min()) > 0 for scale in one.values())


def test_the_rate_falls_along_half_a_cosine(made: tuple[nn.Module, BlockCache]) -> None:
    optimizers = stage(made, iterations=10).learned.optimizers()
    optimizer, rates = optimizers["optimizer"], []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        optimizers["lr_scheduler"]["scheduler"].step()
    assert optimizers["lr_scheduler"]["interval"] == "step"
    assert rates == pytest.approx([0.01 * (1 + math.cos(math.pi * step / 10)) for step in range(11)], abs=1e-9)


def test_every_step_draws_other_items(made: tuple[nn.Module, BlockCache], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, seen = stage(made, iterations=4, seed=3), []
    error = ours.error

    def noted(tensors: Any, indices: Sequence[int]) -> Tensor:
        seen.append(tuple(indices))
        return error(tensors, indices)

    monkeypatch.setattr(ours, "error", noted)
    learned(ours)
    assert len(seen) == len(set(seen)) == 4
    draws = [generator_for(3, step, "steps of block") for step in range(4)]  # these names decide what a run repeats
    assert seen == [tuple(torch.randint(ITEMS, (8,), generator=draw).tolist()) for draw in draws]
    assert ours.trainer.callback_metrics["error"] > 0


def test_rows_are_in_the_file_itself(tmp_path: Path) -> None:
    rows = mapped_rows(tmp_path / "rows.bin", 3, torch.zeros(1, 2))
    rows[1] = torch.tensor([1.0, 2.0])
    assert np.fromfile(tmp_path / "rows.bin", dtype=np.float32).tolist() == [0, 0, 1, 2, 0, 0]


def test_a_call_comes_back_with_rows_of_tensors_and_all_else_as_it_was(tmp_path: Path) -> None:
    x, y = torch.arange(6.0).view(3, 2), torch.arange(3.0).view(3, 1)
    cache = BlockCache(tmp_path, 3)
    for some in ([2, 0], [1]):
        cache.record(some, CallArgs((x[some], 5), {"y": y[some], "scale": 2.0, "mask": None}), -x[some])
    call, target = cache.batch([1, 2], torch.device("cpu"))
    assert [one.tolist() for one in (call.args[0], call.kwargs["y"], target)] == [
        x[1:].tolist(),
        y[1:].tolist(),
        (-x[1:]).tolist(),
    ]
    assert (call.args[1], call.kwargs["scale"], call.kwargs["mask"]) == (5, 2.0, None)
