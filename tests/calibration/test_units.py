"""Units: every layer in one, blocks whole, in the order of a call; tapes give back what was recorded."""

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from quantbooth.calibration.tape import Given, Tape, caught_inputs, caught_output
from quantbooth.calibration.units import Unit, units_of
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.stable_diffusion import StableDiffusion
from quantbooth.quant.surgery import matching

ENDS = ["conv_in", "conv_out"]


def call(denoiser: Any, count: int = 2) -> Tensor:
    draw = torch.Generator().manual_seed(count)
    side, channels = denoiser.config.sample_size, denoiser.config.in_channels
    x = torch.randn(count, channels, side, side, generator=draw)
    text = torch.randn(count, 5, denoiser.config.cross_attention_dim, generator=draw)
    with torch.no_grad():
        found: Tensor = denoiser(x, torch.arange(count) * 100, encoder_hidden_states=text).sample
    return found


@pytest.fixture
def denoiser(base: Base) -> Any:
    return deepcopy(base.denoiser)


@pytest.fixture
def units(denoiser: Any) -> list[Unit]:
    return units_of(
        denoiser, StableDiffusion().blocks(denoiser), matching(denoiser, ["*"], ENDS), lambda: call(denoiser)
    )


def test_every_layer_is_in_one_unit(denoiser: Any, units: list[Unit]) -> None:
    inside = [layer for unit in units for layer in unit.layers]
    assert sorted(inside) == sorted(matching(denoiser, ["*"], ENDS))
    assert len(set(inside)) == len(inside)


def test_units_are_whole_blocks_and_lone_layers(denoiser: Any, units: list[Unit]) -> None:
    kinds = (ResnetBlock2D, BasicTransformerBlock)
    blocks = {name for name, module in denoiser.named_modules() if isinstance(module, kinds)}
    assert {unit.name for unit in units if len(unit.layers) > 1} == blocks
    for unit in units:
        assert unit.layers == (unit.name,) or unit.name in blocks
        assert all(layer == unit.name or layer.startswith(f"{unit.name}.") for layer in unit.layers)


def test_they_come_in_the_order_of_the_call(denoiser: Any, units: list[Unit]) -> None:
    names = [unit.name for unit in units]
    first = ["time_embedding.linear_1", "time_embedding.linear_2"]
    assert names[:2] == first
    parts = [name.split(".")[0] for name in names[2:]]
    assert list(dict.fromkeys(parts)) == ["down_blocks", "mid_block", "up_blocks"]
    calls: list[str] = []
    for name in names:
        module = denoiser.get_submodule(name)
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    call(denoiser)
    assert calls == names


def test_a_layer_that_the_call_leaves_out_is_named(denoiser: Any) -> None:
    denoiser.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="leaves out 'spare'"):
        units_of(denoiser, [], ["spare", "conv_in"], lambda: call(denoiser))


def test_caught_inputs_give_the_caught_output(denoiser: Any, units: list[Unit]) -> None:
    for unit in units:
        module, run = denoiser.get_submodule(unit.name), partial(call, denoiser)
        given, output = caught_inputs(module, run), caught_output(module, run)
        with torch.no_grad():
            assert torch.equal(module(*given.args, **given.kwargs), output)


def test_a_call_goes_no_further_and_leaves_no_hook(denoiser: Any) -> None:
    last: list[int] = []
    denoiser.conv_out.register_forward_hook(lambda *_: last.append(1))
    caught_output(denoiser.conv_in, lambda: call(denoiser))
    assert not last
    assert not denoiser.conv_in._forward_hooks
    call(denoiser)
    assert last == [1]


def test_a_call_that_does_not_reach_the_module_is_an_error(denoiser: Any) -> None:
    with pytest.raises(ValueError, match="must reach the module"):
        caught_inputs(nn.Linear(1, 1), lambda: call(denoiser))


def test_a_tape_gives_back_its_rows_in_any_order(tmp_path: Path, generator: torch.Generator) -> None:
    tape, x = Tape(tmp_path, 5), torch.randn(5, 3, 2, generator=generator)
    text, y = torch.randn(5, 4, generator=generator), torch.randn(5, 2, 2, generator=generator)
    for places in ([0, 1, 2], [3, 4]):
        tape.record(places, Given((x[places], 7), {"text": text[places], "mask": None}), y[places])
    order = [4, 0, 4, 2]
    given, target = tape.batch(order, torch.device("cpu"))
    assert torch.equal(given.args[0], x[order])
    assert given.args[1] == 7
    assert torch.equal(given.kwargs["text"], text[order])
    assert given.kwargs["mask"] is None
    assert torch.equal(target, y[order])
    assert tape.nbytes == sum(file.stat().st_size for file in tmp_path.iterdir()) == 4 * (30 + 20 + 20)
