"""Scale sets: attach, detach, strict loading, stacking."""

import pytest
import torch
from torch import Tensor, nn

from quantbooth.quant import scale_sets
from quantbooth.quant.format import Grid
from quantbooth.quant.layers import QuantizedLinear
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.scale_sets import Parts, attach_, detach_, load_, read, stack, trainable
from quantbooth.quant.selection import SetSelection
from quantbooth.runtime.errors import UserError


def make() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [QuantizedLinear.from_float(nn.Linear(*sizes), MinMaxObserver(Grid(4))) for sizes in ((3, 4), (4, 5))]
    return nn.Sequential(layers[0], nn.LayerNorm(4), layers[1])


def random_sets(count: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(count, out, generator=generator) + 0.5 for name, out in (("0.gain_out", 4), ("2.gain_out", 5))
    }


def test_attached_sets_start_as_the_base_and_detaching_leaves_it() -> None:
    model, selection, x = make(), SetSelection(), torch.randn(3, 3)
    base = model(x)
    attach_(model, 2, selection)
    selection.choose(torch.tensor([0, 1, 2]))
    assert torch.equal(model(x), base)
    load_(model, random_sets(2))
    after = model(x)
    assert torch.equal(after[0], base[0])
    assert not torch.equal(after[1:], base[1:])
    detach_(model)
    assert torch.equal(model(x), base)
    assert list(model.state_dict()) == list(make().state_dict())


def test_counts_and_lists_the_gains_only() -> None:
    model = make()
    attach_(model, 3, SetSelection())
    assert trainable(model) == 3 * (4 + 5)
    kinds = scale_sets.parameters(model)
    assert {kind: [tuple(gain.shape) for gain in numbers] for kind, numbers in kinds.items()} == {
        "gains": [(3, 4), (3, 5)]
    }
    assert all(gain.requires_grad and gain.dtype == torch.float32 for gain in kinds["gains"])


@pytest.mark.parametrize(
    ("parts", "gains", "shifts"),
    [
        (Parts(inputs=True), ["0.gain_in 3", "0.gain_out 4", "2.gain_in 4", "2.gain_out 5"], []),
        (Parts(biases=True), ["0.gain_out 4", "2.gain_out 5"], ["0.shift 4", "2.shift 5"]),
        (Parts(norms=True), ["0.gain_out 4", "1.gain_out 4", "2.gain_out 5"], ["1.shift 4"]),
        (
            Parts(True, True, True),
            ["0.gain_in 3", "0.gain_out 4", "1.gain_out 4", "2.gain_in 4", "2.gain_out 5"],
            ["0.shift 4", "1.shift 4", "2.shift 5"],
        ),
    ],
)
def test_what_a_set_holds_is_named_starts_as_nothing_and_is_listed_by_kind(
    parts: Parts, gains: list[str], shifts: list[str]
) -> None:
    model, selection, x = make(), SetSelection(), torch.randn(3, 3)
    base = model(x)
    attach_(model, 2, selection, parts)
    selection.choose(torch.tensor([2, 0, 1]))
    assert torch.equal(model(x), base)
    held = read(model)
    assert sorted(f"{name} {rows.shape[1]}" for name, rows in held.items()) == sorted([*gains, *shifts])
    for kind, names, start in (("gains", gains, 1), ("shifts", shifts, 0)):
        numbers = scale_sets.parameters(model).get(kind, [])
        assert [len(rows) for rows in numbers] == [2] * len(names)
        assert all((rows == start).all() for rows in numbers)
    assert trainable(model) == sum(rows.numel() for rows in held.values())
    detach_(model)
    assert torch.equal(model(x), base)
    assert list(model.state_dict()) == list(make().state_dict())
    assert len(model[1]._forward_hooks) == 0


def test_loading_is_the_inverse_of_reading_and_reading_copies() -> None:
    generator, parts = torch.Generator().manual_seed(0), Parts(True, True, True)
    one, other = make(), make()
    for model in (one, other):
        attach_(model, 2, SetSelection(), parts)
    with torch.no_grad():
        for rows in (rows for kind in scale_sets.parameters(one).values() for rows in kind):
            rows.uniform_(generator=generator)
    parameters = scale_sets.parameters(other)
    load_(other, read(one))
    values = read(other)
    assert list(values) == list(read(one))
    assert all(torch.equal(values[name], rows) for name, rows in read(one).items())
    assert all(not rows.requires_grad for rows in values.values())
    values["0.gain_out"].zero_()
    assert not (read(other)["0.gain_out"] == 0).any()
    for kind, numbers in scale_sets.parameters(other).items():
        assert all(one is two for one, two in zip(parameters[kind], numbers, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.gain_out": None, "2.gain_out": None}, "'0.gain_out' is missing"),
        ({"2.gain_out": None}, "'2.gain_out' is missing"),
        ({"2.gain_out": torch.ones(1, 5)}, r"'2.gain_out' must have shape \(2, 5\), got \(1, 5\)"),
        (
            {"0.gain_out": torch.ones(2, 9), "2.gain_out": None},
            r"'0.gain_out' must have shape \(2, 4\), got \(2, 9\)",
        ),
        ({"1.gain_out": torch.ones(2, 4)}, "'1.gain_out' is not in the model"),
        ({"0.gain_in": torch.ones(2, 3)}, "'0.gain_in' is not in the model"),
        ({"0": torch.ones(2, 4), "0.gain_out": None}, "'0.gain_out' is missing"),  # as format 1 named it
    ],
)
def test_loading_names_the_first_difference_and_changes_nothing(change: dict[str, Tensor], message: str) -> None:
    model = make()
    attach_(model, 2, SetSelection())
    values = {name: value for name, value in {**random_sets(2), **change}.items() if value is not None}
    with pytest.raises(UserError, match="the scale set does not fit the model: " + message):
        load_(model, values)
    assert all((gain == 1).all() for gain in read(model).values())


def test_refuses_to_attach_twice_or_to_nothing_or_no_set() -> None:
    model = make()
    with pytest.raises(ValueError, match="at least 1, got 0"):
        attach_(model, 0, SetSelection())
    with pytest.raises(ValueError, match="must have quantized layers, got none in Linear"):
        attach_(nn.Linear(2, 2), 1, SetSelection())
    with pytest.raises(ValueError, match="needs normalizations with weights, and a QuantizedLinear has none"):
        attach_(QuantizedLinear(2, 2, 4), 1, SetSelection(), Parts(norms=True))
    attach_(model, 1, SetSelection())
    with pytest.raises(RuntimeError, match=r"attached once, got '0\.gain_out' already: call detach_ first"):
        attach_(model, 1, SetSelection())


def test_refuses_to_read_what_is_not_attached() -> None:
    for use in (read, trainable, scale_sets.parameters, lambda model: load_(model, random_sets(2))):
        with pytest.raises(RuntimeError, match="call attach_ first"):
            use(make())


def test_stacked_experts_serve_as_they_did_alone() -> None:
    parts, x = [random_sets(1, 1), random_sets(2, 2)], torch.randn(3, 3)
    outputs: list[Tensor] = []
    for part, row in ((0, 1), (1, 1), (1, 2)):
        model, selection = make(), SetSelection()
        attach_(model, len(parts[part]["0.gain_out"]), selection)
        load_(model, parts[part])
        selection.choose(torch.full((1,), row))
        outputs.append(model(x[len(outputs)][None]))
    model, selection = make(), SetSelection()
    attach_(model, 3, selection)
    load_(model, stack(parts))
    selection.choose(torch.tensor([1, 2, 3]))
    torch.testing.assert_close(model(x), torch.cat(outputs))


def test_stacking_names_the_first_difference() -> None:
    one, other = random_sets(1), random_sets(1)
    with pytest.raises(UserError, match="scale set 2 does not fit scale set 1: '2.gain_out' is missing"):
        stack([one, {"0.gain_out": other["0.gain_out"]}])
    with pytest.raises(UserError, match=r"'2.gain_out' must have shape \(1, 5\), got \(1, 6\)"):
        stack([one, {**other, "2.gain_out": torch.ones(1, 6)}])
    with pytest.raises(UserError, match="'9' is not in scale set 1"):
        stack([one, {**other, "9": torch.ones(1, 6)}])
    with pytest.raises(ValueError, match="at least one scale set"):
        stack([])


def test_attaches_on_the_meta_device() -> None:
    model = nn.Sequential(QuantizedLinear(3, 4, 4, device="meta"))
    attach_(model, 2, SetSelection(), Parts(inputs=True, biases=True))
    assert {numbers.device.type for numbers in model.parameters()} == {"meta"}


def test_unstacking_is_the_inverse_of_stacking_equal_parts() -> None:
    parts = [{"a": torch.full((2, 3), float(place)), "b": torch.full((2, 1), -float(place))} for place in range(3)]
    again = scale_sets.unstack(scale_sets.stack(parts), 3)
    assert len(again) == 3
    assert all(torch.equal(one[name], other[name]) for one, other in zip(again, parts, strict=True) for name in one)
    with pytest.raises(ValueError, match="'a' has 6 sets, which are no 4 equal parts"):
        scale_sets.unstack(scale_sets.stack(parts), 4)
