"""Replacing layers: patterns, records, and loading from disk."""

import gc
import json
import weakref

import pytest
import torch
from torch import Tensor, nn

from quantbooth.quant.format import Grid
from quantbooth.quant.layers import QuantizedConv2d, QuantizedLinear
from quantbooth.quant.observers import MinMaxObserver, MSEObserver
from quantbooth.quant.surgery import empty_like_, from_json, quantize_, to_json
from quantbooth.runtime.errors import UserError


class Net(nn.Module):
    """Nested, with both kinds, a norm and a subclass of Linear that must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.GroupNorm(2, 8))
        self.mid = nn.ModuleDict({"proj": nn.Linear(8, 8), "out": nn.Linear(8, 8, bias=False)})
        self.odd = nn.modules.linear.NonDynamicallyQuantizableLinear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.conv_in(x)).flatten(2).transpose(1, 2)
        y: Tensor = self.odd(self.mid["out"](self.mid["proj"](x)))
        return y


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


LAYERS = ["conv_in", "down.0", "mid.proj", "mid.out"]


def test_everything_by_default_with_bytes_before_and_after() -> None:
    model, x = net(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(x)
        replaced = quantize_(model, MSEObserver(Grid(8)))
        torch.testing.assert_close(model(x), before, rtol=0, atol=0.05)
    assert [record.name for record in replaced] == LAYERS
    assert [record.kind for record in replaced] == ["Conv2d", "Conv2d", "Linear", "Linear"]
    assert replaced[1].shape == (8, 8, 3, 3)
    assert replaced[1].bytes_before == 4 * (8 * 8 * 9 + 8)
    assert replaced[1].bytes_after == 8 * 8 * 9 + 8 * (4 + 1 + 4)
    assert isinstance(model.conv_in, QuantizedConv2d)
    assert isinstance(model.mid["out"], QuantizedLinear)
    assert type(model.odd) is nn.modules.linear.NonDynamicallyQuantizableLinear


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (("*",), ("conv_in",), LAYERS[1:]),
        (("mid.*",), (), LAYERS[2:]),
        (("mid.*", "conv_in"), ("*.out",), ["conv_in", "mid.proj"]),
        (("*.0", "down*"), (), ["down.0"]),
    ],
)
def test_include_and_exclude(include: tuple[str, ...], exclude: tuple[str, ...], expected: list[str]) -> None:
    assert [record.name for record in quantize_(net(), MinMaxObserver(Grid(4)), include, exclude)] == expected


@pytest.mark.parametrize(
    ("include", "exclude", "message"),
    [
        (("*", "middle.*"), (), "include pattern 'middle.\\*' must match"),
        (("*",), ("conv_out",), "exclude pattern 'conv_out' must match"),
        (("odd",), (), "include pattern 'odd' must match"),
        (("down",), (), "include pattern 'down' must match"),
        (("mid.*",), ("mid.*",), "must leave a layer, got none"),
        ((), (), "must leave a layer, got none"),
    ],
)
def test_patterns_that_match_nothing_are_errors(
    include: tuple[str, ...], exclude: tuple[str, ...], message: str
) -> None:
    model = net()
    with pytest.raises(UserError, match=message):
        quantize_(model, MinMaxObserver(Grid(4)), include, exclude)
    assert type(model.conv_in) is nn.Conv2d


def test_what_is_quantized_already_is_not_matched_again() -> None:
    model = net()
    quantize_(model, MinMaxObserver(Grid(8)), ("conv_in",))
    assert [record.name for record in quantize_(model, MinMaxObserver(Grid(4)))] == LAYERS[1:]
    with pytest.raises(UserError, match="include pattern 'conv_in' must match"):
        quantize_(model, MinMaxObserver(Grid(4)), ("conv_in",))


def test_refuses_an_uncovered_layer_by_name_before_changing_anything() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"))
    with pytest.raises(UserError, match=r"layer '1': .*got padding_mode='circular'"):
        quantize_(model, MinMaxObserver(Grid(4)))
    assert type(model[0]) is nn.Linear


def test_refuses_a_layer_with_two_names() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="must have one name, got '0' and '1'"):
        quantize_(nn.Sequential(layer, layer), MinMaxObserver(Grid(4)))


def test_each_float_weight_is_gone_before_the_next_is_begun() -> None:
    model = net()
    alive = [weakref.ref(model.get_submodule(name)) for name in LAYERS]
    seen: list[int] = []

    class Watching(MinMaxObserver):
        """Counts the float layers still alive whenever a search begins."""

        def search(self, weight: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(sum(reference() is not None for reference in alive))
            return super().search(weight)

    gc.collect()
    gc.disable()
    try:
        quantize_(model, Watching(Grid(4)))
    finally:
        gc.enable()
    assert seen == [4, 3, 2, 1]


SPLITS = {"down.0": (3, 5), "mid.proj": (6, 2)}


def test_layers_in_parts_are_recorded_and_come_back() -> None:
    model, x = net(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    replaced = quantize_(model, MinMaxObserver(Grid(3)), exclude=("conv_in",), splits=SPLITS)
    assert {record.name: record.split for record in replaced if record.split} == SPLITS
    assert replaced[0].bytes_after == 8 * (11 + 18) + 8 * (2 * 4 + 2 * 1 + 4)
    records = from_json(json.loads(json.dumps(to_json(replaced))))
    assert records == replaced
    with torch.device("meta"):
        loaded = Net()
    empty_like_(loaded, records)
    loaded.load_state_dict(model.state_dict(), strict=True, assign=True)
    assert torch.equal(loaded(x), model(x))


def test_records_from_before_there_were_parts_are_read() -> None:
    replaced = quantize_(net(), MinMaxObserver(Grid(4)))
    old = [{key: value for key, value in record.items() if key != "split"} for record in to_json(replaced)]
    assert from_json(old) == replaced


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"conv_in": (1, 2)}, "split layers must be among those to quantize, got 'conv_in'"),
        ({"middle": (1, 2)}, "split layers must be among those to quantize, got 'middle'"),
        ({"mid.out": (4, 4), "down.0": (3, 4)}, r"layer 'down.0': split must be .* with the sum 8, got \(3, 4\)"),
    ],
)
def test_splits_that_do_not_fit_are_refused_before_changing_anything(
    splits: dict[str, tuple[int, ...]], message: str
) -> None:
    model = net()
    with pytest.raises(UserError, match=message):
        quantize_(model, MinMaxObserver(Grid(4)), exclude=("conv_in",), splits=splits)
    assert type(model.down[0]) is nn.Conv2d
    assert type(model.mid["out"]) is nn.Linear


def test_train_and_eval_mode_pass_on() -> None:
    model = net().eval()
    quantize_(model, MinMaxObserver(Grid(4)))
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_saved_model_comes_back_on_the_meta_device_without_its_float_weights(bits: int) -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    replaced = quantize_(model, MinMaxObserver(Grid(bits)), exclude=("conv_in",))
    records = from_json(json.loads(json.dumps(to_json(replaced))))
    assert records == replaced
    with torch.device("meta"):
        loaded = Net()
    empty_like_(loaded, records)
    assert all(tensor.device.type == "meta" for tensor in loaded.state_dict().values())
    loaded.load_state_dict(model.state_dict(), strict=True, assign=True)
    assert torch.equal(loaded(x), model(x))


def test_restoring_into_another_model_names_the_first_difference() -> None:
    replaced = quantize_(net(), MinMaxObserver(Grid(4)))
    other = net()
    other.down[0] = nn.Conv2d(8, 8, 1)
    expected = r"'down.0' does not fit the model: must be Conv2d with weight \(8, 8, 3, 3\), got Conv2d with weight"
    with pytest.raises(UserError, match=expected):
        empty_like_(other, replaced)
    assert type(other.conv_in) is nn.Conv2d
    with pytest.raises(UserError, match=r"'conv_in' does not fit the model: .* got no such layer"):
        empty_like_(nn.Sequential(nn.Linear(2, 2)), replaced)
    empty_like_(other := net(), replaced)
    with pytest.raises(UserError, match="got QuantizedConv2d"):
        empty_like_(other, replaced)
