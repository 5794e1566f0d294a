"""Which layers keep y instead of u where a bias is added, and how exact the gradient of gains then is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantbooth.quant.adapters import add_
from quantbooth.quant.format import Grid
from quantbooth.quant.kernels import choice as kernels
from quantbooth.quant.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear, quantized_layers
from quantbooth.quant.observers import MinMaxObserver, MovingAverageMinMaxObserver
from quantbooth.quant.per_channel import gradients
from quantbooth.quant.scale_sets import Parts, attach_
from quantbooth.quant.small_biases import MOST, find_small_biases, mark_small_biases_

Kept = Callable[..., tuple[list[Tensor], Tensor]]
KINDS = ["linear", "convolution"]


def model_of(kind: str, **ratios: float) -> tuple[nn.ModuleDict, Tensor]:
    """Layers of the same input with biases of these ratios, and that input."""
    torch.manual_seed(0)
    convolution = kind == "convolution"
    x = torch.randn(2, 8, 6, 6) if convolution else torch.randn(2, 9, 8)
    made: dict[str, nn.Module] = {}
    for name, ratio in ratios.items():
        plain = nn.Conv2d(8, 16, 3) if convolution else nn.Linear(8, 16)
        cls = QuantizedConv2d if convolution else QuantizedLinear
        made[name] = layer = cls.from_float(plain, MinMaxObserver(Grid(4)))
        assert layer.bias is not None
        u = (layer(x) - layer.bias.view(-1, 1, 1) if convolution else layer(x) - layer.bias).movedim(layer.channel, 0)
        layer.bias *= ratio * u.flatten(1).square().mean(1).sum().sqrt() / layer.bias.norm()
    return nn.ModuleDict(made).requires_grad_(False), x


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_found_by_the_ratio_of_its_bias(kind: str) -> None:
    model, x = model_of(kind, none=0, below=0.99 * MOST, above=1.01 * MOST)
    selection = attach_(model, 1)
    selection.choose(torch.tensor([0, 0]))
    assert find_small_biases(model, lambda: [one(x) for one in model.values()]) == ["none", "below"]


def test_the_largest_ratio_of_several_calls_counts_and_no_hook_stays() -> None:
    model, x = model_of("linear", one=1.0)
    attach_(model, 1).choose(torch.tensor([0, 0]))
    assert find_small_biases(model, lambda: [model["one"](part) for part in (x / 4, x)]) == []
    assert find_small_biases(model, lambda: [model["one"](part) for part in (x, x)]) == ["one"]
    assert not model["one"]._forward_hooks
    with pytest.raises(ZeroDivisionError):
        find_small_biases(model, lambda: 1 / 0)
    assert not model["one"]._forward_hooks


@pytest.mark.parametrize("kind", KINDS)
def test_a_bias_is_compared_with_the_layer_alone_and_not_with_a_lora_beside_it(kind: str) -> None:
    model, x = model_of(kind, one=2 * MOST)
    attach_(model, 1).choose(torch.tensor([0, 0]))
    window = model["one"].shape[2:]  # type: ignore[index]
    add_(model, {"one": [(torch.ones(1, 8, *window), 100 * torch.ones(16, 1))]})
    assert find_small_biases(model, lambda: model["one"](x)) == []


def test_layers_without_a_bias_or_a_gain_and_those_never_called_are_not_listed() -> None:
    model, x = model_of("linear", called=0.5, never=0.5, bare=0.5)
    model["bare"].bias = None  # type: ignore[assignment]
    assert find_small_biases(model, lambda: pytest.fail("nothing has gains")) == []
    attach_(model, 1).choose(torch.tensor([0, 0]))
    assert find_small_biases(model, lambda: [model[name](x) for name in ("called", "bare")]) == ["called"]
    assert find_small_biases(model, lambda: None) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_marked_layer_keeps_its_output_in_bfloat16_and_the_others_do_not(
    kept: Kept, kind: str, dtype: torch.dtype
) -> None:
    model, x = model_of(kind, marked=1.0, other=1.0)
    attach_(model, 1).choose(torch.tensor([1, 1]))
    mark_small_biases_(model, ["marked"])

    def keeps_y(layer: nn.Module) -> bool:
        saved, y = kept(layer, x.to(dtype))
        activations = [tensor for tensor in saved if tensor.shape == y.shape and tensor.dtype == dtype]
        assert len(activations) == 1
        return torch.equal(activations[0], y)

    assert [keeps_y(one) for one in model.values()] == [dtype == torch.bfloat16, False]
    mark_small_biases_(model, [])
    assert not any(keeps_y(one) for one in model.values())


def gain_error(layer: QuantizedLayer, x: Tensor) -> float:
    """The relative error of the gradient of gains in bfloat16, beside float64."""
    torch.manual_seed(1)
    dy: Any = torch.randn(layer(x).shape).bfloat16()
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        layer.zero_grad()
        layer(x.bfloat16().to(dtype)).backward(dy.to(dtype))
        assert isinstance(layer.gain_out, Tensor) and layer.gain_out.grad is not None
        found.append(layer.gain_out.grad.double().clone())
    return float((found[1] - found[0]).norm() / found[0].norm())


@pytest.mark.parametrize("bits_of_inputs", [0, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_gains_has_at_most_about_twice_the_error(kind: str, bits_of_inputs: int) -> None:
    model, x = model_of(kind, small=MOST, large=30.0)
    for _, layer in quantized_layers(model) if bits_of_inputs else ():
        layer.input_quantizer = observer = MovingAverageMinMaxObserver(0.9, layer.split, layer.channel)
        layer(x)
        layer.input_quantizer = observer.quantizer(bits_of_inputs)
    attach_(model, 1, parts=Parts(biases=True)).choose(torch.tensor([1, 1]))
    with_u = {name: gain_error(layer, x) for name, layer in model.items()}  # type: ignore[arg-type]
    mark_small_biases_(model, ["small", "large"])
    with_y = {name: gain_error(layer, x) for name, layer in model.items()}  # type: ignore[arg-type]
    assert with_y["small"] < min(2.5 * with_u["small"], 1e-2)
    assert with_y["large"] > 4 * with_u["large"]  # why it is looked at


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("shape", "channel"), [((3, 7, 5), -1), ((3, 5, 6, 7), 1)])
def test_triton_subtracts_the_bias_too(shape: tuple[int, ...], channel: int, rows: int) -> None:
    torch.manual_seed(0)
    y, dy = torch.randn(shape), torch.randn(shape)
    gain, shift = 1 + 0.1 * torch.randn(3, 5), torch.randn(rows, 5)
    found = []
    for choice in (kernels.EAGER, kernels.FUSED):
        with kernels.use(choice):
            found.append(gradients(dy, y, True, gain, shift, channel, True, True))
    for eager, fused in zip(*found, strict=True):
        assert eager is not None and fused is not None
        torch.testing.assert_close(fused, eager, rtol=1e-5, atol=1e-5)
