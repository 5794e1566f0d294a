"""Weights by layers: what is read is what the whole network has, and no more of it is in memory at a time."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from experiments.random_base import random_base
from quantbooth.calibration.layerwise import quantize_layers_
from quantbooth.diffusion.pretrained import denoiser_by_layers, load_base, save_base
from quantbooth.diffusion.streamed import FILE, INDEX, streamed_weights
from quantbooth.quant.format import Grid
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.surgery import NO_SPLITS, matching
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.lightning import Loop


@pytest.fixture(params=["tiny", "tiny-sd3", "tiny-klein", "tiny-qwen-image"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save_base(random_base(request.param), tmp_path, torch.float16)
    return tmp_path


def test_every_weight_is_that_of_the_whole_network(folder: Path) -> None:
    base, read = denoiser_by_layers(folder, "base")
    whole = load_base(folder, "base").denoiser
    assert all(parameter.is_meta for parameter in base.denoiser.parameters())
    layer = matching(base.denoiser, ["*"], [])[3]
    read(layer)
    assert {name for name, one in base.denoiser.named_parameters() if not one.is_meta} == {
        name for name, _ in whole.named_parameters() if name.startswith(f"{layer}.")
    }
    read("")
    assert base.denoiser.state_dict().keys() == whole.state_dict().keys()
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in base.denoiser.state_dict().items())
    assert not any(parameter.requires_grad for parameter in base.denoiser.parameters())
    assert not base.denoiser.training


@pytest.mark.chain
def test_calibration_is_bit_for_bit_that_of_the_whole_network(folder: Path, loop: Loop) -> None:
    """At every layer, what was read before is gone: of float weights to quantize only one layer's are in memory."""
    base, read = denoiser_by_layers(folder, "base")
    names = matching(base.denoiser, ["*"], base.float_layers)
    in_memory: list[int] = []

    def watched(name: str) -> None:
        read(name)
        kept = [base.denoiser.get_submodule(one) for one in names] if name else []
        in_memory.append(
            sum(not one.weight.is_meta for one in kept if isinstance(one, torch.nn.Linear | torch.nn.Conv2d))
        )

    search = MinMaxObserver(Grid(4))
    found = quantize_layers_(base.denoiser, names, search, NO_SPLITS, loop, "quantizing", watched)
    whole = load_base(folder, "base").denoiser
    assert quantize_layers_(whole, names, search, NO_SPLITS, loop, "quantizing") == found
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in base.denoiser.state_dict().items())
    assert max(in_memory) == 1 and len(in_memory) == len(names) + 1


@pytest.fixture
def unet(tmp_path: Path) -> Path:
    random_base("tiny").denoiser.save_pretrained(str(tmp_path))
    return tmp_path


def empty(folder: Path) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(str(folder)))


def test_a_network_in_several_files_is_read_too(unet: Path) -> None:
    whole = load_file(unet / FILE)
    (unet / FILE).unlink()
    parts = {"a.safetensors": dict([*whole.items()][::2]), "b.safetensors": dict([*whole.items()][1::2])}
    for file, weights in parts.items():
        save_file(weights, unet / file)
    places = {name: file for file, weights in parts.items() for name in weights}
    (unet / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    network = empty(unet)
    found = streamed_weights(network, unet)
    assert found is not None
    found.fill_(network)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("conv_in.bias"),
        lambda weights: weights.update(more=torch.zeros(1)),
        lambda weights: weights.update({"conv_in.bias": torch.zeros(1)}),
        lambda weights: weights.update({"conv_in.bias": weights["conv_in.bias"].to(torch.int8)}),
    ],
    ids=["lacks", "more", "shape", "integers"],
)
def test_files_that_need_more_than_reading_are_left_to_diffusers(
    unet: Path, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    weights = load_file(unet / FILE)
    change(weights)
    save_file(weights, unet / FILE)
    assert streamed_weights(empty(unet), unet) is None


def test_a_weight_that_is_not_finite_is_refused_where_it_is_read(unet: Path) -> None:
    weights = load_file(unet / FILE)
    weights["conv_in.bias"][0] = torch.nan
    save_file(weights, unet / FILE)
    network = empty(unet)
    found = streamed_weights(network, unet)
    assert found is not None
    found.fill_(network, "conv_out")
    with pytest.raises(UserError, match=r"conv_in\.bias"):
        found.fill_(network, "conv_in")
