"""The quantized base on disk: the same bits again, no float weight ever formed, a foreign base refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quantbooth.artifacts.quantized_base import read_quantized_unet, write_quantized_unet
from quantbooth.diffusion.pretrained import new_unet
from quantbooth.errors import UserError
from quantbooth.quant.grid import Grid
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.scale_search import MinMax
from quantbooth.quant.surgery import quantize_
from quantbooth.toyworld.models import UNET

SMALL = {
    **UNET,
    **{"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 2, "mid_block_type": None},
    **{"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")},
    **{"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
}


def base_folder(place: Path, unet: Any) -> Path:
    """A base of which only the architecture is there."""
    unet.save_config(place / "unet")
    return place


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Path]:
    """A quantized unet, the folder it was written to, and its base's folder."""
    torch.manual_seed(0)
    unet = new_unet(SMALL).eval().requires_grad_(False)
    folder, base = tmp_path_factory.mktemp("quantized"), base_folder(tmp_path_factory.mktemp("base"), unet)
    replaced = quantize_(unet, MinMax(Grid(3)), exclude=["conv_in", "conv_out"])
    write_quantized_unet(folder, unet, replaced)
    return unet, folder, base


def predict(unet: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 24, 8, 8, generator=generator), torch.randn(2, 26, 128, generator=generator)
    with torch.no_grad():
        return unet(x, torch.tensor([3, 900]), encoder_hidden_states=text).sample


def test_the_round_trip_changes_no_bit(quantized: tuple[Any, Path, Path]) -> None:
    unet, folder, base = quantized
    again = read_quantized_unet(folder, base)
    for name, tensor in unet.state_dict().items():
        other = again.state_dict()[name]
        assert torch.equal(tensor, other), name
        assert (tensor.dtype, tensor.device) == (other.dtype, other.device), name
    assert [type(module) for module in again.modules()] == [type(module) for module in unet.modules()]
    assert torch.equal(predict(unet), predict(again))


def test_no_float_weight_is_ever_formed(quantized: tuple[Any, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder holds no float weights to read, and what float layers are made hold no memory."""
    formed: list[torch.Tensor] = []
    initialize = nn.init.kaiming_uniform_

    def noted(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        formed.append(tensor)
        return initialize(tensor, *args, **options)

    monkeypatch.setattr(nn.init, "kaiming_uniform_", noted)
    _, folder, base = quantized
    again = read_quantized_unet(folder, base)
    assert len(formed) > 40
    assert all(tensor.is_meta for tensor in formed)
    assert not any(tensor.is_meta for tensor in (*again.parameters(), *again.buffers()))


def test_what_is_read_is_frozen_and_evaluates(quantized: tuple[Any, Path, Path]) -> None:
    _, folder, base = quantized
    again = read_quantized_unet(folder, base)
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert {layer.gain_out for _, layer in quantized_layers(again)} == {None}


def test_codes_are_packed_on_disk(quantized: tuple[Any, Path, Path]) -> None:
    unet, folder, _ = quantized
    layers = [layer for _, layer in quantized_layers(unet)]
    bits = 3
    weights = sum(layer.dequantized().numel() for layer in layers)
    codes = sum(layer.codes.nbytes for layer in layers)
    assert weights * bits / 8 <= codes <= weights * bits / 8 + sum(layer.shape[0] for layer in layers)
    assert (folder / "unet.safetensors").stat().st_size < 2 * sum(t.nbytes for t in unet.state_dict().values())


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
    other = base_folder(tmp_path, new_unet({**SMALL, **change}))
    with pytest.raises(UserError, match=message) as caught:
        read_quantized_unet(folder, other)
    assert "\n" not in str(caught.value)
