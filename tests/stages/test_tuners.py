"""Tuners: what they refuse, what they let learn, and that what was learned comes back to the last bit."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch

from quantbooth.diffusion.base import Base
from quantbooth.errors import UserError
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.selection import Selection
from quantbooth.stages.tuners import FullTuner, ScaleTuner
from quantbooth.timesteps.strategies import Strategy, baseline, s1, s2, tas

MakeUnet = Callable[[], Any]
ZONES = {"clean_up": [0, 200], "content": [200, 700], "coarse": [700, 1000]}


def test_scales_need_a_quantized_base() -> None:
    with pytest.raises(UserError, match=r"^tuner=scales tunes quantization scales; choose quant=w8, w4, w3 or w2, or"):
        ScaleTuner().check(baseline(1000), None)
    for strategy in (baseline(1000), s1([200, 700], "base", 1000), s2(ZONES, True, 1000), tas(4, 1000)):
        ScaleTuner().check(strategy, 4)


def test_float_weights_need_a_float_base() -> None:
    with pytest.raises(UserError, match="^tuner=full tunes float weights; choose quant=fp with it, or tuner=scales$"):
        FullTuner().check(baseline(1000), 4)


@pytest.mark.parametrize(
    "strategy",
    [
        s1([200, 700], "base", 1000),
        s1([0, 700], "base", 1000),
        s1([200, 1000], "base", 1000),
        s2(ZONES, False, 1000),
        tas(4, 1000),
    ],
)
def test_float_weights_serve_every_timestep_or_are_refused(strategy: Strategy) -> None:
    expected = f"^tuner=full has one set of weights for all timesteps; strategy {strategy.name} needs more$"
    with pytest.raises(UserError, match=expected):
        FullTuner().check(strategy, None)


@pytest.mark.parametrize("strategy", [baseline(1000), s1([200, 700], "tuned", 1000), tas(1, 1000)])
def test_float_weights_may_learn_in_one_zone_when_they_serve_all(strategy: Strategy) -> None:
    FullTuner().check(strategy, None)


def test_scales_learn_one_number_per_output_channel_and_set(quantized: MakeUnet) -> None:
    unet = quantized()
    parameters = ScaleTuner().prepare_(unet, 3, Selection())
    channels = sum(layer.shape[0] for _, layer in quantized_layers(unet))
    assert sum(parameter.numel() for parameter in parameters) == 3 * channels
    assert [p for p in unet.parameters() if p.requires_grad] == parameters


def test_full_learns_every_weight(small_base: Base) -> None:
    unet = deepcopy(small_base.unet)
    parameters = FullTuner().prepare_(unet, 1, Selection())
    assert {id(p) for p in parameters} == {id(p) for p in unet.parameters()}
    assert all(parameter.requires_grad for parameter in parameters)


def test_a_state_is_a_copy_that_later_steps_do_not_change(quantized: MakeUnet, small_base: Base) -> None:
    for tuner, unet in ((ScaleTuner(), quantized()), (FullTuner(), deepcopy(small_base.unet))):
        parameters = tuner.prepare_(unet, 1, Selection())
        state = tuner.state(unet)
        before = {name: tensor.clone() for name, tensor in state.items()}
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(1)
        assert all(torch.equal(state[name], before[name]) for name in before)


def test_a_fresh_unet_with_a_loaded_state_is_the_tuned_one(quantized: MakeUnet, small_base: Base) -> None:
    draw = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 24, 8, 8, generator=draw), torch.randn(2, 26, 128, generator=draw)
    makers: list[tuple[Any, MakeUnet]] = [
        (ScaleTuner(), quantized),
        (FullTuner(), lambda: deepcopy(small_base.unet)),
    ]
    for tuner, fresh in makers:
        tuned, again, selection = fresh(), fresh(), Selection()
        selection.choose(torch.tensor([1, 1]))
        with torch.no_grad():
            for parameter in tuner.prepare_(tuned, 1, selection):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
        tuner.load_(again, tuner.state(tuned), selection)
        with torch.no_grad():
            one, other, base = (
                unet(x, torch.tensor([3, 900]), encoder_hidden_states=text).sample for unet in (tuned, again, fresh())
            )
        assert torch.equal(one, other)
        assert not torch.equal(one, base)


def test_experts_trained_apart_become_one_state_in_the_order_of_their_zones() -> None:
    parts = [{"a": torch.full((1, 2), float(k)), "b": torch.full((1, 3), float(k))} for k in range(3)]
    joined = ScaleTuner().join(parts)
    assert joined["a"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert joined["b"].shape == (3, 3)
    assert FullTuner().join(parts[:1]) is parts[0]
    with pytest.raises(ValueError, match="float weights of one run were expected, got 3 runs"):
        FullTuner().join(parts)


def test_a_scale_set_of_another_unet_is_refused_naming_the_layer(quantized: MakeUnet) -> None:
    state = {name: torch.ones(1, layer.shape[0]) for name, layer in quantized_layers(quantized())}
    first = next(iter(state))
    for foreign, message in (
        ({**state, first: torch.ones(1, 999)}, f"layer '{first}' must have shape"),
        ({name: gain for name, gain in state.items() if name != first}, f"layer '{first}' is missing"),
        ({**state, "elsewhere": torch.ones(1, 2)}, "layer 'elsewhere' is not in the model"),
    ):
        with pytest.raises(UserError, match=message):
            ScaleTuner().load_(quantized(), foreign, Selection())
