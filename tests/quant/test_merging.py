"""Merging: the float model computes the quantized model with one set for all samples, for every kind of layer."""

import copy

import pytest
import torch
from torch import Tensor, nn

from quantbooth.quant.activations import ActivationQuantizer
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.merging import average, merged_state
from quantbooth.quant.scale_sets import Parts, attach_, parameters, parts_of, read
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import quantize_
from quantbooth.runtime.errors import UserError

PARTS = [Parts(), Parts(inputs=True), Parts(biases=True), Parts(norms=True), Parts(True, True, True)]
BY_GROUP = [*PARTS, Parts(group_size=2), Parts(True, True, True, 2)]


def network() -> nn.Module:
    """Every kind of layer that can be quantized, normalizations, and something that stays float."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(
            *(nn.Conv2d(4, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.Conv2d(6, 6, 3, groups=3, bias=False)),
            *(
                nn.Flatten(),
                nn.Linear(54, 5),
                nn.LayerNorm(5),
                nn.Linear(5, 3, bias=False),
                nn.LayerNorm(3, bias=False),
            ),
        ).requires_grad_(False)
        for parameter in made.parameters():
            if parameter.ndim == 1:  # biases, and norms: their initial 1 and 0 would hide what is multiplied
                nn.init.normal_(parameter)
        return made


def problem(parts: Parts) -> tuple[nn.Module, SetSelection, Tensor]:
    """A quantized network with two random sets, and inputs."""
    model, generator = network(), torch.Generator().manual_seed(1)
    quantize_(model, 4, exclude=["6"], splits={"0": (3, 1)})
    selection = attach_(model, 2, parts=parts)
    with torch.no_grad():
        for numbers in (number for kind in parameters(model).values() for number in kind):
            numbers.uniform_(0.5, 1.5, generator=generator)
    return model, selection, torch.randn(2, 4, 5, 5, generator=generator)


def loaded(state: dict[str, Tensor]) -> nn.Module:
    model = network()
    model.load_state_dict(state, strict=True)
    return model.double()


@pytest.mark.parametrize("parts", BY_GROUP, ids=str)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_folded_model_is_the_quantized_one_with_that_set(parts: Parts, index: int) -> None:
    model, selection, x = problem(parts)
    before = copy.deepcopy(model.state_dict())
    selection.choose(torch.full((len(x),), index))
    torch.testing.assert_close(loaded(merged_state(model, index))(x.double()), model(x).double(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_sets_differ_when_folded_and_the_base_has_the_dequantized_weights() -> None:
    model, _, _ = problem(Parts(True, True, True))
    states = [merged_state(model, index) for index in range(3)]
    for name, layer in quantized_layers(model):
        assert torch.equal(states[0][f"{name}.weight"], layer.dequantized())
        assert not torch.equal(states[1][f"{name}.weight"], states[2][f"{name}.weight"])


def test_the_average_is_that_of_the_weights() -> None:
    model, _, _ = problem(Parts(True, True, True))
    mean = average(model, {0: 0.2, 1: 0.5, 2: 0.3})
    states = [merged_state(model, index) for index in range(3)]
    assert mean.keys() == states[0].keys()
    for name, tensor in mean.items():
        expected = sum(share * state[name].double() for share, state in zip((0.2, 0.5, 0.3), states, strict=True))
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"^weights must sum to 1, got 0\.75$"):
        average(model, {0: 0.25, 1: 0.5})


def test_a_float_model_gives_its_own_tensors() -> None:
    model = network()
    assert all(
        tensor.data_ptr() == model.state_dict()[name].data_ptr() for name, tensor in merged_state(model, 0).items()
    )


def test_quantized_activations_cannot_be_folded() -> None:
    model, _, _ = problem(Parts())
    next(layer for name, layer in quantized_layers(model) if name == "4").input_quantizer = ActivationQuantizer(8)
    with pytest.raises(
        UserError, match=r"^activations are quantized \(of layer '4' first\), which float weights cannot"
    ):
        merged_state(model, 1)


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_names_of_sets_tell_what_they_hold(parts: Parts) -> None:
    model, _, _ = problem(parts)
    names = list(read(model))
    fresh = network()
    quantize_(fresh, 4, exclude=["6"])
    assert parts_of(fresh, names) == parts
