"""Calibration: layer by layer the same as all at once, with each layer's error as a plain loop finds it."""

from copy import deepcopy

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from quantbooth.calibration.layerwise import CalibrationStage
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.unet import concatenations
from quantbooth.quant.format import Grid
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.observers import MSE, MinMax
from quantbooth.quant.surgery import matching, quantize_


def calibrate(denoiser: nn.Module, names: list[str], bits: int = 4) -> CalibrationStage:
    stage = CalibrationStage(denoiser, MinMax(Grid(bits)))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.predict(stage, stage.loader(names), return_predictions=False)
    return stage


def test_layer_by_layer_is_the_same_as_all_at_once(small_base: Base) -> None:
    one, other = deepcopy(small_base.denoiser), deepcopy(small_base.denoiser)
    stage = calibrate(one, matching(one, ["*"], ["conv_in", "conv_out"]))
    replaced = quantize_(other, MinMax(Grid(4)), exclude=["conv_in", "conv_out"])
    assert stage.replaced == replaced
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_shortcuts_in_parts_are_those_of_quantizing_all_at_once(small_base: Base) -> None:
    one, other = deepcopy(small_base.denoiser), deepcopy(small_base.denoiser)
    splits = concatenations(one)
    stage = CalibrationStage(one, MinMax(Grid(4)), splits)
    for name in matching(one, ["*"], ["conv_in", "conv_out"]):
        stage.predict_step(name)
    assert {record.name: record.split for record in stage.replaced if record.split} == splits
    assert quantize_(other, MinMax(Grid(4)), exclude=["conv_in", "conv_out"], splits=splits) == stage.replaced
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_errors_are_relative_distances_of_the_weights(small_base: Base) -> None:
    denoiser = deepcopy(small_base.denoiser)
    weights = {name: module.weight for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)}
    stage = calibrate(denoiser, list(weights))
    for name, layer in quantized_layers(denoiser):
        weight = weights[name].double()
        expected = ((layer.dequantized().double() - weight).square().sum() / weight.square().sum()).sqrt()
        assert stage.errors[name] == pytest.approx(float(expected), rel=1e-4)


def test_more_bits_and_a_search_lose_less() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(200, 30))
    errors = [calibrate(deepcopy(layer), ["0"], bits).errors["0"] for bits in (2, 3, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.01 < errors[0]
    searched = CalibrationStage(deepcopy(layer), MSE(Grid(2), norm=2.0))
    searched.predict_step("0")
    assert searched.errors["0"] < errors[0]


def test_a_weight_of_zeros_is_exact_and_its_error_a_number() -> None:
    layer = nn.Sequential(nn.Linear(4, 3))
    nn.init.zeros_(layer[0].get_parameter("weight"))
    assert calibrate(layer, ["0"]).errors == {"0": 0.0}
