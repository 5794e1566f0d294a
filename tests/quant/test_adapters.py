"""Adapters of a model: seeded, neutral at the start, attached, detached and summed; misfits are refused."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from quantbooth.quant import adapters
from quantbooth.quant.low_rank import FOREIGN
from quantbooth.quant.merging import merged_state
from quantbooth.quant.scale_sets import attach_ as attach_scale_sets_
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import quantize_
from quantbooth.runtime.errors import UserError


def make(quantized: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        named = {"conv": nn.Conv2d(4, 6, 3, padding=1), "flat": nn.Flatten(), "first": nn.Linear(54, 5)}
        model = nn.Sequential(OrderedDict({**named, "last": nn.Linear(5, 3)})).requires_grad_(False)
    if quantized:
        quantize_(model, 4, exclude=["last"])
    return model


X = torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(9))


def attached(
    model: nn.Module, names: tuple[str, ...] = ("conv", "first"), seed: int = 0, scale: float = 1.0
) -> SetSelection:
    selection = SetSelection()
    adapters.attach_(model, names, 2, 3, scale, selection, torch.Generator().manual_seed(seed))
    return selection


def shaken(model: nn.Module, scale: float = 1.0) -> SetSelection:
    selection, draw = attached(model, scale=scale), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for numbers in adapters.parameters(model):
            numbers.copy_(torch.randn(numbers.shape, generator=draw))
    return selection


@pytest.mark.parametrize("quantized", [False, True])
def test_attached_adapters_change_nothing_yet_and_detaching_leaves_nothing(quantized: bool) -> None:
    model, untouched = make(quantized), make(quantized)
    attached(model).choose(torch.tensor([1, 0, 2]))
    assert torch.equal(model(X), untouched(X))
    adapters.detach_(model)
    assert list(model.state_dict()) == list(untouched.state_dict())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_is_drawn_by_the_seed_within_kaimings_bound_and_b_is_zero() -> None:
    models = [make() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        attached(model, seed=seed)
    one, same, other = (adapters.read(model) for model in models)
    assert {name: tuple(rows.shape) for name, rows in one.items()} == {
        **{"conv.lora_A": (2, 3, 4, 3, 3), "conv.lora_B": (2, 6, 3)},
        **{"first.lora_A": (2, 3, 54), "first.lora_B": (2, 5, 3)},
    }
    assert all(torch.equal(rows, same[name]) for name, rows in one.items())
    assert not torch.equal(one["first.lora_A"], other["first.lora_A"])
    for name, fan_in in (("conv", 36), ("first", 54)):
        drawn = one[f"{name}.lora_A"]
        assert 0.8 * fan_in**-0.5 < drawn.abs().max() <= fan_in**-0.5
        assert not torch.equal(drawn[0], drawn[1])
        assert (one[f"{name}.lora_B"] == 0).all()


def test_only_adapters_learn() -> None:
    model = make(True)
    attached(model)
    asking = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert asking == [id(parameter) for parameter in adapters.parameters(model)]
    assert all(parameter.dtype == torch.float32 for parameter in adapters.parameters(model))


@pytest.mark.parametrize("quantized", [False, True])
def test_serving_what_was_read_computes_the_same_bit_for_bit_whatever_the_scale(quantized: bool) -> None:
    model, again = make(quantized), make(quantized)
    shaken(model, scale=0.3).choose(torch.tensor([2, 0, 1]))
    sets, selection = adapters.read(model), SetSelection()
    adapters.serve_(again, sets, selection)
    selection.choose(torch.tensor([2, 0, 1]))
    assert torch.equal(again(X), model(X))
    assert all(torch.equal(rows, sets[name]) for name, rows in adapters.read(again).items())
    sets["first.lora_A"].zero_()
    assert not (adapters.read(model)["first.lora_A"] == 0).all()


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_folded_model_is_the_adapted_one_with_that_set(quantized: bool, index: int) -> None:
    model, plain = make(quantized), make()
    shaken(model, scale=0.3).choose(torch.full((3,), index))
    plain.load_state_dict(merged_state(model, index), strict=True)
    torch.testing.assert_close(plain(X), model(X), rtol=1e-4, atol=1e-4)


def test_likeness_has_the_names_and_shapes_of_what_is_read() -> None:
    model = make()
    like = adapters.likeness(model, ("conv", "first"), 2, 3)
    attached(model)
    assert {name: rows.shape for name, rows in like.items()} == {n: r.shape for n, r in adapters.read(model).items()}


def test_several_terms_for_all_are_their_sum_beside_scale_sets() -> None:
    model, selection = make(True), SetSelection()
    attach_scale_sets_(model, 1, selection)
    selection.choose(torch.tensor([1, 0, 1]))
    draw = torch.Generator().manual_seed(2)
    pairs = [(torch.randn(r, 54, generator=draw), torch.randn(5, r, generator=draw)) for r in (1, 4)]
    seen: list[Tensor] = []
    model.get_submodule("last").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(X)
    flat = model[:2](X)
    adapters.add_(model, {"first": pairs})
    model(X)
    expected = seen[0] + sum(flat @ down.T @ up.T for down, up in pairs)
    torch.testing.assert_close(seen[1], expected, rtol=1e-4, atol=1e-4)
    adapters.detach_(model, FOREIGN)
    model(X)
    assert torch.equal(seen[2], seen[0])


def test_patterns_choose_float_and_packed_layers_and_those_that_match_nothing_are_refused() -> None:
    model = make(True)
    assert adapters.targets(model, ["*"], ["conv"]) == ["first", "last"]
    with pytest.raises(UserError, match=r"^include pattern 'to_q' must match a Linear or Conv2d layer, got none$"):
        adapters.targets(model, ["to_q"], [])
    with pytest.raises(UserError, match=r"^exclude pattern 'to_q' must match a Linear or Conv2d layer, got none$"):
        adapters.targets(model, ["*"], ["to_q"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first.lora_B": None}, "^the adapters are incomplete: 'first.lora_A'"),
        ({"first.gain_out": torch.ones(1, 5)}, "^'first.gain_out' is not a parameter of an adapter$"),
        ({"nine.lora_A": torch.ones(2, 3, 4), "nine.lora_B": torch.ones(2, 4, 3)}, "it has no layer 'nine'$"),
        (
            {"first.lora_A": torch.ones(2, 3, 7)},
            r"^the adapters must have A and B of \(3, 54\) and \(5, 3\) for 'first', got \(3, 7\) and \(5, 3\)$",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_attached(change: dict[str, Tensor | None], message: str) -> None:
    model, source = make(), make()
    shaken(source)
    sets = {name: rows for name, rows in {**adapters.read(source), **change}.items() if rows is not None}
    with pytest.raises(UserError, match=message):
        adapters.serve_(model, sets, SetSelection())
    assert list(adapters.adapted(model)) == []


def test_a_layer_that_is_not_covered_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(
        UserError, match="^layer '0': an adapted convolution must have one group; leave this layer out$"
    ):
        attached(model, ("0",))


def test_terms_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"^the LoRA must have A and B of \(2, 54\) and \(5, 2\) for 'first', got"):
        adapters.add_(make(), {"first": [(torch.ones(2, 5), torch.ones(5, 2))]})


def test_nothing_is_read_where_nothing_is_attached() -> None:
    for use in (adapters.read, adapters.parameters):
        with pytest.raises(RuntimeError, match="call attach_ first"):
            use(make())
