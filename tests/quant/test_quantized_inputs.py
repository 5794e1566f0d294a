"""Layers with quantized inputs: outputs, gradients of their sets, records; weight-only layers do not change."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantbooth.quant.activations import ActivationQuantizer
from quantbooth.quant.format import Grid
from quantbooth.quant.layers import QuantizedLayer, quantized_layers
from quantbooth.quant.observers import MinMaxObserver, MovingAverageMinMaxObserver
from quantbooth.quant.scale_sets import Parts, attach_
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import empty_like_, from_json, quantize_, to_json, with_inputs

SPLITS = {"0": (1, 3)}


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.SiLU(), nn.Flatten(2), nn.Linear(25, 3))


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(3, 4, 5, 5, generator=generator)


def with_quantizers(model: nn.Module, x: Tensor, bits: int) -> None:
    for _, layer in quantized_layers(model):
        layer.input_quantizer = MovingAverageMinMaxObserver(0.9, layer.split, layer.channel)
    model(x)
    for _, layer in quantized_layers(model):
        assert isinstance(layer.input_quantizer, MovingAverageMinMaxObserver)
        layer.input_quantizer = layer.input_quantizer.quantizer(bits)


@pytest.fixture
def made(x: Tensor) -> tuple[nn.Sequential, list[Any]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = net()
    replaced = quantize_(model, MinMaxObserver(Grid(8)), splits=SPLITS)
    with_quantizers(model, x, 6)
    return model, with_inputs(model, replaced, 6)


def test_a_layer_computes_with_what_its_quantizer_gives(made: tuple[nn.Sequential, Any], x: Tensor) -> None:
    for layer, given in ((made[0][0], x), (made[0][3], x.flatten(2))):
        assert isinstance(layer, QuantizedLayer) and isinstance(layer.input_quantizer, ActivationQuantizer)
        quantizer = layer.input_quantizer
        y, layer.input_quantizer = layer(given), None
        assert torch.equal(y, layer(quantizer(given)))
        assert not torch.equal(y, layer(given))
        layer.input_quantizer = quantizer


def test_weight_only_layers_hold_what_they_held(x: Tensor) -> None:
    model = net()
    replaced = quantize_(model, MinMaxObserver(Grid(4)))
    assert set(model[0].state_dict()) == {"codes", "scale", "zero", "bias"}
    assert {record.activations for record in replaced} == {None}
    old = [{key: value for key, value in record.items() if key != "activations"} for record in to_json(replaced)]
    assert from_json(old) == replaced


def test_records_bring_the_quantizers_back_on_the_meta_device(made: tuple[nn.Sequential, Any], x: Tensor) -> None:
    model, replaced = made
    records = from_json(json.loads(json.dumps(to_json(replaced))))
    assert records == replaced and {record.activations for record in records} == {6}
    with torch.device("meta"):
        loaded = net()
    empty_like_(loaded, records)
    loaded.load_state_dict(model.state_dict(), strict=True, assign=True)
    assert torch.equal(loaded(x), model(x))
    held = [sum(tensor.nbytes for tensor in layer.buffers()) for _, layer in quantized_layers(model)]
    assert [record.bytes_after for record in records] == held


@pytest.mark.parametrize("parts", [Parts(), Parts(inputs=True, biases=True)])
def test_sets_learn_on_quantized_inputs(made: tuple[nn.Sequential, Any], x: Tensor, parts: Parts) -> None:
    """Against autograd on the dequantized weight: gains act on whole numbers, input gains after the quantizer."""
    layer, selection = made[0][0], SetSelection()
    assert isinstance(layer, QuantizedLayer) and layer.input_quantizer is not None and layer.bias is not None
    attach_(layer, 1, selection, parts)
    with torch.no_grad():
        for numbers in layer.parameters():
            numbers.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    selection.choose(torch.ones(3, dtype=torch.int64))
    given, ramp = x.clone().requires_grad_(), torch.linspace(-1, 2, 3 * 6 * 25).view(3, 6, 5, 5)
    ours = torch.autograd.grad((layer(given) * ramp).sum(), [given, *layer.parameters()])
    g_in = torch.ones(4) if layer.gain_in is None else layer.gain_in[0]
    shift = torch.zeros(6) if layer.shift is None else layer.shift[0]
    assert layer.gain_out is not None
    weight = layer.gain_out[0].view(-1, 1, 1, 1) * layer.dequantized() * g_in.view(1, -1, 1, 1)
    y = nn.functional.conv2d(layer.input_quantizer(given), weight, layer.bias + shift, padding=1)
    theirs = torch.autograd.grad((y * ramp).sum(), [given, *layer.parameters()])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
