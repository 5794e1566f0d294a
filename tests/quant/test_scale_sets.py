"""Scale sets: in, out, strict loading, stacking."""

import pytest
import torch
from torch import Tensor, nn

from quantbooth.errors import UserError
from quantbooth.quant import scale_sets
from quantbooth.quant.grid import Grid
from quantbooth.quant.layers import QuantizedLinear
from quantbooth.quant.scale_search import MinMax
from quantbooth.quant.scale_sets import attach_, detach_, gains, load_, stack, trainable
from quantbooth.quant.selection import Selection


def make() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [QuantizedLinear.from_float(nn.Linear(*sizes), MinMax(Grid(4))) for sizes in ((3, 4), (4, 5))]
    return nn.Sequential(layers[0], nn.LayerNorm(4), layers[1])


def random_sets(count: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(count, out, generator=generator) + 0.5 for name, out in (("0", 4), ("2", 5))}


def test_attached_sets_start_as_the_base_and_detaching_leaves_it() -> None:
    model, selection, x = make(), Selection(), torch.randn(3, 3)
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
    attach_(model, 3, Selection())
    assert trainable(model) == 3 * (4 + 5)
    assert [tuple(gain.shape) for gain in scale_sets.parameters(model)] == [(3, 4), (3, 5)]
    assert all(gain.requires_grad and gain.dtype == torch.float32 for gain in scale_sets.parameters(model))


def test_loading_is_the_inverse_of_reading_and_reading_copies() -> None:
    model, values = make(), random_sets(2)
    attach_(model, 2, Selection())
    parameters = scale_sets.parameters(model)
    load_(model, values)
    read = gains(model)
    assert read.keys() == values.keys()
    assert all(torch.equal(read[name], values[name]) for name in values)
    assert all(not gain.requires_grad for gain in read.values())
    read["0"].zero_()
    assert torch.equal(gains(model)["0"], values["0"])
    assert all(one is other for one, other in zip(parameters, scale_sets.parameters(model), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0": None, "2": None}, "layer '0' is missing"),
        ({"2": None}, "layer '2' is missing"),
        ({"2": torch.ones(1, 5)}, r"layer '2' must have shape \(2, 5\), got \(1, 5\)"),
        ({"0": torch.ones(2, 9), "2": None}, r"layer '0' must have shape \(2, 4\), got \(2, 9\)"),
        ({"1": torch.ones(2, 4)}, "layer '1' is not in the model"),
    ],
)
def test_loading_names_the_first_difference_and_changes_nothing(change: dict[str, Tensor], message: str) -> None:
    model = make()
    attach_(model, 2, Selection())
    values = {name: value for name, value in {**random_sets(2), **change}.items() if value is not None}
    with pytest.raises(UserError, match="the scale set does not fit the model: " + message):
        load_(model, values)
    assert all((gain == 1).all() for gain in gains(model).values())


def test_refuses_to_attach_twice_or_to_nothing_or_no_set() -> None:
    model = make()
    with pytest.raises(ValueError, match="at least 1, got 0"):
        attach_(model, 0, Selection())
    with pytest.raises(ValueError, match="must have quantized layers, got none in Linear"):
        attach_(nn.Linear(2, 2), 1, Selection())
    attach_(model, 1, Selection())
    with pytest.raises(RuntimeError, match="attached once, got a gain in '0' already"):
        attach_(model, 1, Selection())


def test_refuses_to_read_what_is_not_attached() -> None:
    for use in (gains, trainable, scale_sets.parameters, lambda model: load_(model, random_sets(2))):
        with pytest.raises(RuntimeError, match="call attach_ first"):
            use(make())


def test_stacked_experts_serve_as_they_did_alone() -> None:
    parts, x = [random_sets(1, 1), random_sets(2, 2)], torch.randn(3, 3)
    outputs: list[Tensor] = []
    for part, row in ((0, 1), (1, 1), (1, 2)):
        model, selection = make(), Selection()
        attach_(model, len(parts[part]["0"]), selection)
        load_(model, parts[part])
        selection.choose(torch.full((1,), row))
        outputs.append(model(x[len(outputs)][None]))
    model, selection = make(), Selection()
    attach_(model, 3, selection)
    load_(model, stack(parts))
    selection.choose(torch.tensor([1, 2, 3]))
    torch.testing.assert_close(model(x), torch.cat(outputs))


def test_stacking_names_the_first_difference() -> None:
    one, other = random_sets(1), random_sets(1)
    with pytest.raises(UserError, match="scale set 2 does not fit scale set 1: layer '2' is missing"):
        stack([one, {"0": other["0"]}])
    with pytest.raises(UserError, match=r"layer '2' must have shape \(1, 5\), got \(1, 6\)"):
        stack([one, {"0": other["0"], "2": torch.ones(1, 6)}])
    with pytest.raises(UserError, match="layer '9' is not in scale set 1"):
        stack([one, {**other, "9": torch.ones(1, 6)}])
    with pytest.raises(ValueError, match="at least one scale set"):
        stack([])


def test_attaches_on_the_meta_device() -> None:
    model = nn.Sequential(QuantizedLinear(3, 4, 4, device="meta"))
    attach_(model, 2, Selection())
    assert scale_sets.parameters(model)[0].device.type == "meta"
