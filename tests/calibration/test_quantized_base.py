"""The quantized base on disk: the same bits again, no float weight ever formed, a foreign base refused."""

import json
import re
import shutil
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from quantbooth.calibration.fake_quantizers import fake_quantizers, insert_fake_quantizers_
from quantbooth.calibration.quantized_base import WEIGHTS, read_quantized_denoiser, write_quantized_denoiser
from quantbooth.diffusion.families.unet import concatenations
from quantbooth.quant.activations import ActivationBits, ActivationQuantizer
from quantbooth.quant.format import Grid
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.scale_sets import Parts, attach_, detach_
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import from_json, quantize_, with_inputs
from quantbooth.runtime.errors import UserError
from quantbooth_toyworld.models import DENOISER, new_denoiser

SMALL = {
    **DENOISER,
    **{"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 2, "mid_block_type": None},
    **{"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")},
    **{"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
}


def base_folder(place: Path, denoiser: Any) -> Path:
    """A base of which only the architecture is there."""
    denoiser.save_config(place / "unet")
    (place / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return place


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Path]:
    """A quantized denoiser, the folder it was written to, and its base's folder."""
    torch.manual_seed(0)
    denoiser = new_denoiser(SMALL).eval().requires_grad_(False)
    folder, base = tmp_path_factory.mktemp("quantized"), base_folder(tmp_path_factory.mktemp("base"), denoiser)
    replaced = quantize_(
        denoiser, MinMaxObserver(Grid(3)), exclude=["conv_in", "conv_out"], splits=concatenations(denoiser)
    )
    write_quantized_denoiser(folder, denoiser, replaced)
    return denoiser, folder, base


def predict(denoiser: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 24, 8, 8, generator=generator), torch.randn(2, 26, 128, generator=generator)
    with torch.no_grad():
        return denoiser(x, torch.tensor([3, 900]), encoder_hidden_states=text).sample


def test_the_round_trip_changes_no_bit(quantized: tuple[Any, Path, Path]) -> None:
    denoiser, folder, base = quantized
    again = read_quantized_denoiser(folder, base)
    for name, tensor in denoiser.state_dict().items():
        other = again.state_dict()[name]
        assert torch.equal(tensor, other), name
        assert (tensor.dtype, tensor.device) == (other.dtype, other.device), name
    assert [type(module) for module in again.modules()] == [type(module) for module in denoiser.modules()]
    assert torch.equal(predict(denoiser), predict(again))


def test_quantized_activations_come_back_in_layers_and_attentions(
    quantized: tuple[Any, Path, Path], tmp_path: Path
) -> None:
    plain, folder, base = quantized
    denoiser, bits = deepcopy(plain), ActivationBits(8, 6)
    attentions = insert_fake_quantizers_(denoiser, partial(ActivationQuantizer, 8), 6)
    for place, quantizer in enumerate(fake_quantizers(denoiser).values()):
        assert isinstance(quantizer, ActivationQuantizer)
        quantizer.fit_(-torch.ones_like(quantizer.scale), (1 + place % 3) * torch.ones_like(quantizer.scale))
    records = from_json(json.loads((folder / "layers.json").read_text()))
    replaced = with_inputs(denoiser, records, 8)
    write_quantized_denoiser(tmp_path, denoiser, replaced, dict.fromkeys(attentions, bits))
    again = read_quantized_denoiser(tmp_path, base)
    assert fake_quantizers(again).keys() == fake_quantizers(denoiser).keys()
    assert attentions
    assert torch.equal(predict(again), predict(denoiser))
    assert not torch.equal(predict(again), predict(plain))


def test_no_float_weight_is_ever_formed(quantized: tuple[Any, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder holds no float weights to read, and what float layers are made hold no memory."""
    formed: list[torch.Tensor] = []
    initialize = nn.init.kaiming_uniform_

    def noted(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        formed.append(tensor)
        return initialize(tensor, *args, **options)

    monkeypatch.setattr(nn.init, "kaiming_uniform_", noted)
    _, folder, base = quantized
    again = read_quantized_denoiser(folder, base)
    assert len(formed) > 40
    assert all(tensor.is_meta for tensor in formed)
    assert not any(tensor.is_meta for tensor in (*again.parameters(), *again.buffers()))


def test_what_is_read_is_frozen_and_evaluates(quantized: tuple[Any, Path, Path]) -> None:
    _, folder, base = quantized
    again = read_quantized_denoiser(folder, base)
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert {layer.gain_out for _, layer in quantized_layers(again)} == {None}


@pytest.fixture
def tuned(quantized: tuple[Any, Path, Path]) -> Iterator[nn.Module]:
    """The denoiser with two sets of gains of both sides, chosen for a batch of two."""
    _, folder, base = quantized
    denoiser, selection = read_quantized_denoiser(folder, base), SetSelection()
    attach_(denoiser, 2, selection, Parts(inputs=True, biases=True, norms=True))
    selection.choose(torch.tensor([2, 1]))
    yield denoiser.train()
    detach_(denoiser)


def step(denoiser: Any) -> list[torch.Tensor]:
    """The prediction, and the gradients of all that learns."""
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 24, 8, 8, generator=generator), torch.randn(2, 26, 128, generator=generator)
    y = denoiser(x, torch.tensor([3, 900]), encoder_hidden_states=text).sample
    y.square().mean().backward()
    gradients = [parameter.grad for parameter in denoiser.parameters() if parameter.requires_grad]
    return [y.detach(), *[gradient for gradient in gradients if gradient is not None]]


def test_a_step_of_a_whole_denoiser_keeps_no_quantized_weight_in_float(tuned: nn.Module) -> None:
    saved: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step(tuned)
    layers = dict(quantized_layers(tuned))
    assert len(layers) > 40
    assert any(layer.split for layer in layers.values())
    storages = {tensor.data_ptr() for tensor in saved}
    assert all(layer.codes.data_ptr() in storages for layer in layers.values())
    weights = {tuple(shape) for layer in layers.values() for shape in (layer.shape, reversed(layer.shape))}
    assert [tensor.shape for tensor in saved if tensor.is_floating_point() and tuple(tensor.shape) in weights] == []


def test_checkpointing_a_whole_denoiser_changes_no_bit(tuned: Any) -> None:
    plain = step(tuned)
    tuned.zero_grad()
    tuned.enable_gradient_checkpointing()
    calls: list[str] = []
    tuned.up_blocks[0].resnets[0].conv1.register_forward_pre_hook(lambda *_: calls.append("conv1"))
    again = step(tuned)
    assert len(calls) == 2  # the second time in the backward
    assert len(plain) > 200
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one, other)


def test_codes_are_packed_on_disk(quantized: tuple[Any, Path, Path]) -> None:
    denoiser, folder, _ = quantized
    layers = [layer for _, layer in quantized_layers(denoiser)]
    bits = 3
    weights = sum(layer.dequantized().numel() for layer in layers)
    codes = sum(layer.codes.nbytes for layer in layers)
    assert weights * bits / 8 <= codes <= weights * bits / 8 + sum(layer.shape[0] for layer in layers)
    assert (folder / "denoiser.safetensors").stat().st_size < 2 * sum(t.nbytes for t in denoiser.state_dict().values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_out_channels": (8, 24)}, r"^quantized layer '.*' does not fit the model: must be .*, got .*$"),
        ({"in_channels": 4}, r"is not a quantization of the base in .*: size mismatch for conv_in\.weight"),
    ],
)
def test_a_base_of_another_architecture_is_refused_in_one_line(
    quantized: tuple[Any, Path, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    _, folder, _ = quantized
    other = base_folder(tmp_path, new_denoiser({**SMALL, **change}))
    with pytest.raises(UserError, match=message) as caught:
        read_quantized_denoiser(folder, other)
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_is_refused_in_one_line(quantized: tuple[Any, Path, Path], tmp_path: Path) -> None:
    _, _, base = quantized
    with pytest.raises(UserError, match=r"must hold denoiser\.safetensors, found none; remove that folder and calib"):
        read_quantized_denoiser(tmp_path, base)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1e-3])
def test_scales_that_no_calibration_makes_are_refused_by_name(
    quantized: tuple[Any, Path, Path], tmp_path: Path, value: float
) -> None:
    _, folder, base_folder = quantized
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    state = load_file(copy / WEIGHTS)
    name = min(key for key in state if key.endswith(".scale"))
    state[name].view(-1)[0] = value
    save_file(state, copy / WEIGHTS)
    with pytest.raises(UserError, match=rf"{WEIGHTS}: .*{re.escape(name.removesuffix('.scale'))}"):
        read_quantized_denoiser(copy, base_folder)
