"""Adapters of groups of inputs: their twin, and merging into zero points without touching a code or a scale."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantbooth.quant import adapters
from quantbooth.quant.activations import ActivationQuantizer
from quantbooth.quant.format import BITS, Grid
from quantbooth.quant.layers import QuantizedLayer
from quantbooth.quant.low_rank import LEARNED
from quantbooth.quant.merging import merged_state
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import Replaced, empty_like_, quantize_
from quantbooth.quant.zero_points import merge_zeros_
from quantbooth.runtime.errors import UserError

RANK, SCALE, SIZE = 2, 0.7, 4
MAKERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "vectors": (lambda: nn.Linear(12, 5), (3, 12), ()),
    "tokens": (lambda: nn.Linear(12, 5, bias=False), (3, 4, 12), ()),
    "one group": (lambda: nn.Linear(4, 5), (3, 4), ()),
    "split": (lambda: nn.Linear(12, 5), (3, 12), (8, 4)),
    "pointwise": (lambda: nn.Conv2d(8, 6, 1), (3, 8, 5, 5), ()),
    "strided": (lambda: nn.Conv2d(8, 6, 3, stride=2, padding=1), (3, 8, 7, 6), ()),
    "dilated, split": (lambda: nn.Conv2d(8, 6, (3, 2), padding=(2, 0), dilation=(2, 1)), (3, 8, 7, 6), (4, 4)),
}
Made = tuple[nn.Sequential, list[Replaced], Tensor, SetSelection]


def make(name: str, bits: int = 4) -> Made:
    """A model of one quantized layer with two random adapters."""
    maker, shape, split = MAKERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = nn.Sequential(maker()).requires_grad_(False), torch.randn(shape)
        replaced = quantize_(model, MinMaxObserver(Grid(bits)), splits={"0": split} if split else {})
        selection = SetSelection()
        adapters.attach_(model, ["0"], 2, RANK, SCALE, selection, torch.Generator().manual_seed(1), 1, SIZE)
        for numbers in adapters.parameters(model):
            numbers.data.normal_()
    return model, replaced, x, selection


@pytest.fixture(params=MAKERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def only(model: nn.Sequential) -> QuantizedLayer:
    layer = model[0]
    assert isinstance(layer, QuantizedLayer)
    return layer


def twin(model: nn.Sequential, x: Tensor, index: int) -> Tensor:
    """In float64, input by input: W[o, i] + s sum_r B[o, r] A[r, i // SIZE], at every place of the kernel."""
    layer = only(model)
    weight, a, b = layer.dequantized().double(), getattr(layer, f"{LEARNED}_A"), getattr(layer, f"{LEARNED}_B")
    for o in range(weight.shape[0]):
        for i in range(weight.shape[1]):
            weight[o, i] += SCALE * sum(float(b[index - 1, o, r] * a[index - 1, r, i // SIZE]) for r in range(RANK))
    bias = None if layer.bias is None else layer.bias.double()
    if weight.ndim == 2:
        return F.linear(x.double(), weight, bias)
    made = layer.product
    return F.conv2d(x.double(), weight, bias, made.stride, made.padding, made.dilation)  # type: ignore[attr-defined]


def test_the_term_is_that_of_a_float64_twin_and_the_base_has_none(name: str) -> None:
    model, _, x, selection = make(name)
    plain = copy.deepcopy(model)
    adapters.detach_(plain)
    for index in (1, 2):
        selection.choose(torch.full((len(x),), index))
        torch.testing.assert_close(model(x).double(), twin(model, x, index), rtol=1e-4, atol=1e-4)
    selection.choose(torch.zeros(len(x), dtype=torch.int64))
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize("bits", BITS)
def test_merging_keeps_every_integer_and_scale_and_computes_the_same(name: str, bits: int) -> None:
    model, _, x, selection = make(name, bits)
    before, selected = only(model), selection
    codes, spread = before.form.integers(before.codes), before.form.spread(before.scale)
    selected.choose(torch.full((len(x),), 2))
    expected = model(x)
    made = merge_zeros_(model, 2)["0"]
    assert made is only(model) and not list(model.parameters())
    assert torch.equal(made.form.integers(made.codes), codes)
    every = made.form.spread(made.scale)
    assert torch.equal(every.expand(every.shape[0], made.shape[1], *every.shape[2:]).flatten(1), _wide(spread, made))
    assert made.zero.dtype == torch.float32 and made.zero.numel() == made.shape[0] * made.shape[1] // SIZE
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=2e-4)


def _wide(spread: Tensor, made: QuantizedLayer) -> Tensor:
    flat = spread.flatten(1)
    return flat.expand(flat.shape[0], made.shape[1]) if flat.shape[1] == 1 else flat


def test_the_base_keeps_its_zero_points_and_its_bits(name: str) -> None:
    model, _, x, _ = make(name)
    plain = copy.deepcopy(model)
    adapters.detach_(plain)
    made = merge_zeros_(model, 0)["0"]
    assert torch.equal(made.zero, made.zero.round())
    assert torch.equal(made.dequantized(), only(plain).dequantized())
    torch.testing.assert_close(model(x), plain(x), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_weight_once(name: str, dtype: torch.dtype) -> None:
    model, _, _, _ = make(name)
    made = merge_zeros_(model, 1)["0"]
    exact = made.form.weight(made.codes, made.scale, made.zero, torch.float32)
    assert torch.equal(made.form.weight(made.codes, made.scale, made.zero, dtype), exact.to(dtype))


def test_the_float_export_has_the_same_weight(name: str) -> None:
    model, _, _, _ = make(name)
    folded = merged_state(model, 1)["0.weight"]
    torch.testing.assert_close(merge_zeros_(model, 1)["0"].dequantized(), folded, rtol=1e-4, atol=1e-5)


def test_a_state_dict_brings_the_merged_layer_back_bit_for_bit(name: str) -> None:
    model, (record,), x, _ = make(name)
    made = merge_zeros_(model, 1)["0"]
    fresh = nn.Sequential(MAKERS[name][0]())
    merged = Replaced(record.name, record.kind, record.shape, record.bits, 0, 0, made.split)
    empty_like_(fresh, [merged])
    fresh.load_state_dict(model.state_dict(), strict=True, assign=True)
    assert torch.equal(fresh(x), model(x))


def test_what_is_served_is_what_was_read_and_other_groups_are_refused(name: str) -> None:
    model, _, x, selection = make(name)
    sets, served = adapters.read(model), copy.deepcopy(model)
    adapters.detach_(served)
    adapters.serve_(served, sets, selection, SIZE)
    selection.choose(torch.full((len(x),), 1))
    torch.testing.assert_close(served(x), model(x), rtol=1e-5, atol=1e-5)
    bare = copy.deepcopy(served)
    adapters.detach_(bare)
    with pytest.raises(UserError, match=r"^the adapters must have A and B of "):
        adapters.serve_(bare, sets, selection)


def test_the_distance_is_that_of_the_whole_weight(name: str) -> None:
    model, _, _, _ = make(name)
    base = only(model).dequantized().double()
    whole = sum(float((merged_state(model, index)["0.weight"].double() - base).square().sum()) for index in (1, 2))
    assert float(adapters.distance(model)) == pytest.approx(whole, rel=1e-3)


def test_what_cannot_be_merged_or_grouped_is_refused_by_its_layer() -> None:
    model, _, _, _ = make("vectors")
    only(model).input_quantizer = ActivationQuantizer(8)
    with pytest.raises(UserError, match=r"^activations are quantized \(of layer '0' first\), but an adapter reads"):
        merge_zeros_(model, 1)
    plain = nn.Sequential(nn.Linear(12, 5))
    quantize_(plain, 4)
    given = (SetSelection(), torch.Generator())
    with pytest.raises(UserError, match="^layer '0': tuner.group_size must divide its 12 inputs, got 5; choose a"):
        adapters.attach_(plain, ["0"], 1, RANK, SCALE, *given, 1, 5)
    adapters.attach_(plain, ["0"], 1, RANK, SCALE, *given)
    with pytest.raises(UserError, match="^the adapter of '0' cannot be merged into zero points; choose tuner=qa_lora$"):
        merge_zeros_(plain, 1)
    split = nn.Sequential(nn.Linear(12, 5))
    quantize_(split, 4, splits={"0": (10, 2)})
    with pytest.raises(UserError, match="^layer '0': tuner.group_size must divide its 10 inputs, got 4;"):
        adapters.attach_(split, ["0"], 1, RANK, SCALE, *given, 1, 4)
