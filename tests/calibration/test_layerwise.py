"""Calibration: layer by layer the same as all at once, with each layer's error as a plain loop finds it."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from torch import nn

from quantbooth.calibration.layerwise import quantize_layers_
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.unet import concatenations
from quantbooth.quant.format import Grid
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.observers import MinMaxObserver, MSEObserver, ScaleSearch
from quantbooth.quant.surgery import NO_SPLITS, Replaced, Splits, matching, quantize_
from quantbooth.runtime.lightning import Loop

BY_RANGE = MinMaxObserver(Grid(4))
Quantize = Callable[..., tuple[list[Replaced], dict[str, float]]]


@pytest.fixture
def calibrate(loop: Loop) -> Quantize:
    """Quantizes layers by a search, else by their whole range."""

    def run(
        denoiser: nn.Module, names: list[str], search: ScaleSearch = BY_RANGE, splits: Splits = NO_SPLITS
    ) -> tuple[list[Replaced], dict[str, float]]:
        return quantize_layers_(denoiser, names, search, splits, loop, "quantizing")

    return run


def test_layer_by_layer_is_the_same_as_all_at_once(calibrate: Quantize, small_base: Base) -> None:
    one, other = deepcopy(small_base.denoiser), deepcopy(small_base.denoiser)
    replaced, _ = calibrate(one, matching(one, ["*"], ["conv_in", "conv_out"]))
    assert quantize_(other, MinMaxObserver(Grid(4)), exclude=["conv_in", "conv_out"]) == replaced
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_shortcuts_in_parts_are_those_of_quantizing_all_at_once(calibrate: Quantize, small_base: Base) -> None:
    one, other = deepcopy(small_base.denoiser), deepcopy(small_base.denoiser)
    splits = concatenations(one)
    replaced, _ = calibrate(one, matching(one, ["*"], ["conv_in", "conv_out"]), splits=splits)
    assert {record.name: record.split for record in replaced if record.split} == splits
    assert quantize_(other, MinMaxObserver(Grid(4)), exclude=["conv_in", "conv_out"], splits=splits) == replaced
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_errors_are_relative_distances_of_the_weights(calibrate: Quantize, small_base: Base) -> None:
    denoiser = deepcopy(small_base.denoiser)
    weights = {name: module.weight for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)}
    _, errors = calibrate(denoiser, list(weights))
    for name, layer in quantized_layers(denoiser):
        weight = weights[name].double()
        expected = ((layer.dequantized().double() - weight).square().sum() / weight.square().sum()).sqrt()
        assert errors[name] == pytest.approx(float(expected), rel=1e-4)


def test_more_bits_and_a_search_lose_less(calibrate: Quantize) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(200, 30))
    errors = [calibrate(deepcopy(layer), ["0"], MinMaxObserver(Grid(bits)))[1]["0"] for bits in (2, 3, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.01 < errors[0]
    assert calibrate(deepcopy(layer), ["0"], MSEObserver(Grid(2), lp_norm=2.0))[1]["0"] < errors[0]


def test_a_weight_of_zeros_is_exact_and_its_error_a_number(calibrate: Quantize) -> None:
    layer = nn.Sequential(nn.Linear(4, 3))
    nn.init.zeros_(layer[0].get_parameter("weight"))
    assert calibrate(layer, ["0"])[1] == {"0": 0.0}


def test_what_is_made_can_be_trained_through(calibrate: Quantize) -> None:
    layer = nn.Sequential(nn.Linear(4, 3))
    calibrate(layer, ["0"])
    x = torch.ones(2, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None


def test_the_denoiser_is_moved_to_the_device_of_the_loop_and_evaluates(small_base: Base) -> None:
    denoiser = deepcopy(small_base.denoiser).train()
    quantize_layers_(denoiser, [], BY_RANGE, NO_SPLITS, Loop(torch.device("meta"), Precision()), "quantizing")
    assert {parameter.device.type for parameter in denoiser.parameters()} == {"meta"}
    assert not denoiser.training
