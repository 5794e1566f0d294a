"""Blocks: every layer in one, blocks whole, in the order of a call; caches give back what was recorded."""

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from quantbooth.calibration.block_cache import BlockCache, CallArgs, capture_inputs, capture_output
from quantbooth.calibration.blocks import Block, blocks_of
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
def blocks(denoiser: Any) -> list[Block]:
    return blocks_of(
        denoiser, StableDiffusion().blocks(denoiser), matching(denoiser, ["*"], ENDS), lambda: call(denoiser)
    )


def test_every_layer_is_in_one_block(denoiser: Any, blocks: list[Block]) -> None:
    inside = [layer for block in blocks for layer in block.layers]
    assert sorted(inside) == sorted(matching(denoiser, ["*"], ENDS))
    assert len(set(inside)) == len(inside)


def test_blocks_are_whole_blocks_and_lone_layers(denoiser: Any, blocks: list[Block]) -> None:
    kinds = (ResnetBlock2D, BasicTransformerBlock)
    whole = {name for name, module in denoiser.named_modules() if isinstance(module, kinds)}
    assert {block.name for block in blocks if len(block.layers) > 1} == whole
    for block in blocks:
        assert block.layers == (block.name,) or block.name in whole
        assert all(layer == block.name or layer.startswith(f"{block.name}.") for layer in block.layers)


def test_they_come_in_the_order_of_the_call(denoiser: Any, blocks: list[Block]) -> None:
    names = [block.name for block in blocks]
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


def test_asking_for_blocks_leaves_no_hook(denoiser: Any, blocks: list[Block]) -> None:
    assert blocks
    assert not any(module._forward_pre_hooks for module in denoiser.modules())


def test_a_layer_that_the_call_leaves_out_is_named(denoiser: Any) -> None:
    denoiser.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="leaves out 'spare'"):
        blocks_of(denoiser, [], ["spare", "conv_in"], lambda: call(denoiser))


def test_caught_inputs_give_the_caught_output(denoiser: Any, blocks: list[Block]) -> None:
    for block in blocks:
        module, run = denoiser.get_submodule(block.name), partial(call, denoiser)
        given, output = capture_inputs(module, run), capture_output(module, run)
        with torch.no_grad():
            assert torch.equal(module(*given.args, **given.kwargs), output)


def test_a_call_goes_no_further_and_leaves_no_hook(denoiser: Any) -> None:
    last: list[int] = []
    denoiser.conv_out.register_forward_hook(lambda *_: last.append(1))
    capture_output(denoiser.conv_in, lambda: call(denoiser))
    assert not last
    assert not denoiser.conv_in._forward_hooks
    call(denoiser)
    assert last == [1]


def test_a_call_that_does_not_reach_the_module_is_an_error(denoiser: Any) -> None:
    with pytest.raises(ValueError, match="must reach the module"):
        capture_inputs(nn.Linear(1, 1), lambda: call(denoiser))


def test_a_cache_gives_back_its_rows_in_any_order(tmp_path: Path, generator: torch.Generator) -> None:
    cache, x = BlockCache(tmp_path, 5), torch.randn(5, 3, 2, generator=generator)
    text, y = torch.randn(5, 4, generator=generator), torch.randn(5, 2, 2, generator=generator)
    for indices in ([0, 1, 2], [3, 4]):
        cache.record(indices, CallArgs((x[indices], 7), {"text": text[indices], "mask": None}), y[indices])
    order = [4, 0, 4, 2]
    given, target = cache.batch(order, torch.device("cpu"))
    assert torch.equal(given.args[0], x[order])
    assert given.args[1] == 7
    assert torch.equal(given.kwargs["text"], text[order])
    assert given.kwargs["mask"] is None
    assert torch.equal(target, y[order])
    assert cache.nbytes == sum(file.stat().st_size for file in tmp_path.iterdir()) == 4 * (30 + 20 + 20)
