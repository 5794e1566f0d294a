"""Tuners: refusals, trainable parameters, and exact loading of trained parameters."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch

from quantbooth.diffusion.base import Base
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.per_channel import normalizations
from quantbooth.quant.selection import SetSelection
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.strategies import Strategy, baseline, s1, s2, tas
from quantbooth.tuning.stacked import StackedTuner
from quantbooth.tuning.tuner import Tuner
from quantbooth.tuning.tuners import FullTuner, IdentifierTuner, LoraTuner, ScaleTuner

MakeDenoiser = Callable[[], Any]
MakeBase = Callable[[Tuner], Base]
ZONES = {"clean_up": [0, 200], "content": [200, 700], "coarse": [700, 1000]}
SENTENCES = ("a photo of a sks mug", "a photo of a mug")
EVERYTHING = ScaleTuner(inputs=True, biases=True, norms=True)
TUNERS: dict[str, Tuner] = {
    "scales": ScaleTuner(),
    "everything": EVERYTHING,
    "groups": ScaleTuner(inputs=True, group_size=8),
    "full": FullTuner(),
    "lora": LoraTuner(rank=2, alpha=3.0),
    "qlora": LoraTuner(rank=2, alpha=3.0, quantized=True),
    "qa_lora": LoraTuner(rank=2, quantized=True, group_size=4),
    "scales_lora": StackedTuner(inputs=True, rank=2, alpha=3.0),
    "scales, identifier": IdentifierTuner(ScaleTuner(), *SENTENCES),
    "full, identifier": IdentifierTuner(FullTuner(), *SENTENCES),
    "lora, identifier": IdentifierTuner(LoraTuner(), *SENTENCES),
}


@pytest.fixture(params=TUNERS)
def tuner(request: pytest.FixtureRequest) -> Tuner:
    return TUNERS[request.param]


@pytest.fixture(scope="module")
def fresh(quantized: MakeDenoiser, small_base: Base) -> MakeBase:
    """Makes an untuned base of the kind a tuner needs."""

    def make(tuner: Tuner) -> Base:
        packed = tuner.kind == "scale_sets" or (isinstance(tuner, LoraTuner) and tuner.quantized)
        denoiser = quantized() if packed else deepcopy(small_base.denoiser)
        return small_base.with_denoiser(denoiser).with_text_encoder(deepcopy(small_base.text_encoder))

    return make


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


def test_an_identifier_is_one_for_all_experts() -> None:
    tuner = IdentifierTuner(ScaleTuner(), *SENTENCES)
    for strategy in (baseline(1000), s1([200, 700], "base", 1000), s2(ZONES, False, 1000), tas(4, 1000)):
        tuner.check(strategy, 4)
    tuner.check(s2({"content": [200, 700]}, True, 1000), 4)
    expected = (
        "^tuner.identifier=true learns one identifier for all timesteps, but strategy s2-apart trains its 3 "
        "experts apart and each would learn its own; choose strategy.apart=false$"
    )
    with pytest.raises(UserError, match=expected):
        tuner.check(s2(ZONES, True, 1000), 4)
    with pytest.raises(UserError, match="^tuner=scales tunes quantization scales"):
        tuner.check(baseline(1000), None)


def test_scales_learn_one_number_per_output_channel_and_set(fresh: MakeBase) -> None:
    base = fresh(ScaleTuner())
    learning = ScaleTuner().prepare_(base, 3, SetSelection())
    channels = sum(layer.shape[0] for _, layer in quantized_layers(base.denoiser))
    assert list(learning) == ["gains"]
    assert sum(parameter.numel() for parameter in learning["gains"]) == 3 * channels


def test_more_of_the_scales_is_more_numbers_of_the_right_kind(fresh: MakeBase) -> None:
    base = fresh(EVERYTHING)
    learning = EVERYTHING.prepare_(base, 2, SetSelection())
    layers = [layer for _, layer in quantized_layers(base.denoiser)]
    norms = sum(len(norm.get_parameter("weight")) for _, norm in normalizations(base.denoiser))
    gains = sum(layer.shape[0] + layer.inputs for layer in layers) + norms
    shifts = sum(layer.shape[0] for layer in layers if layer.bias is not None) + norms
    counts = {kind: sum(numbers.numel() for numbers in found) for kind, found in learning.items()}
    assert counts == {"gains": 2 * gains, "shifts": 2 * shifts}


def test_gains_of_groups_are_counted_and_layers_of_one_group_are_said(
    fresh: MakeBase, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuner = fresh(ScaleTuner()), ScaleTuner(group_size=16)
    counts = [parameter.numel() for parameter in tuner.prepare_(base, 2, SetSelection())["gains"]]
    layers = dict(quantized_layers(base.denoiser))
    groups = {name: layer.shape[1] // 16 if layer.shape[1] % 16 == 0 else 1 for name, layer in layers.items()}
    assert counts == [2 * groups[name] * layer.shape[0] for name, layer in layers.items()]
    one = ", ".join(name for name, layer in layers.items() if layer.shape[1] % 16)
    assert capsys.readouterr().err == f"one group of inputs, which tuner.group_size=16 does not divide: {one}\n"
    assert one and max(groups.values()) > 1


def test_stacked_learns_what_its_two_parts_learn_apart(fresh: MakeBase) -> None:
    stacked, parts = TUNERS["scales_lora"], (ScaleTuner(inputs=True), TUNERS["qlora"])
    found = stacked.prepare_(fresh(stacked), 2, SetSelection())
    apart = [part.prepare_(fresh(part), 2, SetSelection()) for part in parts]
    assert {kind: [p.shape for p in learned] for kind, learned in found.items()} == {
        kind: [p.shape for p in learned] for one in apart for kind, learned in one.items()
    }


def test_full_learns_every_weight(fresh: MakeBase) -> None:
    base = fresh(FullTuner())
    learning = FullTuner().prepare_(base, 1, SetSelection())
    assert {id(p) for p in learning["weights"]} == {id(p) for p in base.denoiser.parameters()}


def test_only_what_is_prepared_gets_a_gradient_and_nothing_changes_yet(fresh: MakeBase, tuner: Tuner) -> None:
    base, before, selection = fresh(tuner), fresh(tuner), SetSelection()
    learning = tuner.prepare_(base, 1, selection)
    selection.choose(torch.tensor([1, 1]))
    modules = (base.denoiser, base.text_encoder, base.autoencoder)
    asking = [id(p) for module in modules for p in module.parameters() if p.requires_grad]
    assert sorted(asking) == sorted(id(p) for numbers in learning.values() for p in numbers)
    x, t = torch.randn(2, 24, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 900])
    with torch.no_grad():
        one, other = (made.predict(x, t, made.encode_prompts(SENTENCES)) for made in (base, before))
    if tuner is TUNERS["groups"]:  # sums group by group, so equal up to rounding
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    else:
        assert torch.equal(one, other)


def shaken(tuner: Tuner, base: Base, selection: SetSelection, sets: int = 1) -> None:
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for numbers in tuner.prepare_(base, sets, selection).values():
            for parameter in numbers:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))


def test_a_state_is_a_copy_that_later_steps_do_not_change(fresh: MakeBase, tuner: Tuner) -> None:
    base = fresh(tuner)
    learning = tuner.prepare_(base, 1, SetSelection())
    state = tuner.state(base)
    before = {name: tensor.clone() for name, tensor in state.items()}
    assert sum(tensor.numel() for tensor in state.values()) == sum(p.numel() for n in learning.values() for p in n)
    with torch.no_grad():
        for numbers in learning.values():
            for parameter in numbers:
                parameter.add_(1)
    assert all(torch.equal(state[name], before[name]) for name in before)


@pytest.mark.chain
def test_a_fresh_base_with_a_loaded_state_is_the_tuned_one(fresh: MakeBase, tuner: Tuner) -> None:
    tuned, again, untuned, selection = fresh(tuner), fresh(tuner), fresh(tuner), SetSelection()
    shaken(tuner, tuned, selection)
    state = tuner.state(tuned)
    tuner.load_(again, state, 1, selection)
    selection.choose(torch.tensor([1, 1]))
    x, t = torch.randn(2, 24, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 900])
    with torch.no_grad():
        one, other, base = (made.predict(x, t, made.encode_prompts(SENTENCES)) for made in (tuned, again, untuned))
    assert torch.equal(one, other)
    assert not torch.equal(one, base)
    assert all(torch.equal(tensor, state[name]) for name, tensor in tuner.state(again).items())


def test_what_was_tuned_on_something_else_is_refused_naming_the_first_difference(fresh: MakeBase, tuner: Tuner) -> None:
    base = fresh(tuner)
    shaken(tuner, base, SetSelection())
    state = tuner.state(base)
    names = [next(iter(state)), *(name for name in state if name.startswith("identifier."))]
    for name in names:
        for foreign, message in (
            ({**state, name: torch.ones(1, 999)}, rf"'{name}' must have shape \(.*\), got \(1, 999\)$"),
            ({other: tensor for other, tensor in state.items() if other != name}, f"'{name}' is missing$"),
        ):
            with pytest.raises(UserError, match=message):
                tuner.load_(fresh(tuner), foreign, 1, SetSelection())
    for extra in ("elsewhere.gain_out", "identifier.3"):
        with pytest.raises(UserError, match=f"'{extra}' is not in the"):
            tuner.load_(fresh(tuner), {**state, extra: torch.ones(1, 2)}, 1, SetSelection())


def test_experts_trained_apart_become_one_state_in_the_order_of_their_zones(fresh: MakeBase) -> None:
    bases = [fresh(EVERYTHING) for _ in range(3)]
    for k, base in enumerate(bases):
        with torch.no_grad():
            for numbers in EVERYTHING.prepare_(base, 1, SetSelection()).values():
                for parameter in numbers:
                    parameter.fill_(k)
    joined = EVERYTHING.join([EVERYTHING.state(base) for base in bases])
    assert joined.keys() == EVERYTHING.state(bases[0]).keys()
    assert all(rows.shape[0] == 3 and (rows == torch.arange(3.0)[:, None]).all() for rows in joined.values())
    EVERYTHING.load_(fresh(EVERYTHING), joined, 3, SetSelection())


def test_one_run_joins_to_itself_and_more_only_where_there_are_experts(fresh: MakeBase, tuner: Tuner) -> None:
    base = fresh(tuner)
    shaken(tuner, base, SetSelection())
    state = tuner.state(base)
    joined = tuner.join([state])
    assert tuner.by_sample == (tuner.name in ("scales", "lora", "stacked") and not isinstance(tuner, IdentifierTuner))
    assert joined.keys() == state.keys()
    assert all(torch.equal(tensor, joined[name]) for name, tensor in state.items())
    if not tuner.by_sample:
        with pytest.raises(ValueError, match="of one run were expected, got 2 runs"):
            tuner.join([state, state])
