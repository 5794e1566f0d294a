"""Skip splits equal the concatenations of a forward pass, in the toy base and at Stable Diffusion's size."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from quantbooth.diffusion.families.unet import concatenations
from quantbooth.runtime.errors import UserError
from quantbooth_toyworld.models import DENOISER, new_denoiser

SD15 = {"sample_size": 64, "cross_attention_dim": 768}
"""The rest of Stable Diffusion 1.5's denoiser is the library's default."""


class Concatenations(TorchFunctionMode):
    """Notes of every tensor that `torch.cat` makes along the channels how many came from where."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Tensor, tuple[int, ...]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.cat and kwargs == {"dim": 1}:
            self.made.append((result, tuple(part.shape[1] for part in args[0])))
        return result


def seen_by_hooks(denoiser: Any) -> dict[str, tuple[int, ...]]:
    """The parts of what each ResNet block is given, by name, as a forward pass on the meta device makes them."""
    noted, seen = Concatenations(), {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            for made, parts in noted.made:
                if made is args[0]:
                    seen[name] = parts

        return hook

    for name, module in denoiser.named_modules():
        if type(module).__name__ == "ResnetBlock2D":
            module.register_forward_pre_hook(note(name))
    x = torch.zeros(1, denoiser.config.in_channels, 32, 32, device="meta")
    text = torch.zeros(1, 7, denoiser.config.cross_attention_dim, device="meta")
    with torch.no_grad(), noted:
        denoiser(x, torch.zeros(1, device="meta"), encoder_hidden_states=text)
    return seen


def empty(config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return new_denoiser(config)


@pytest.mark.parametrize("config", [DENOISER, SD15], ids=["toy", "sd15"])
def test_parts_are_those_of_a_forward_pass(config: dict[str, Any]) -> None:
    denoiser = empty(config)
    seen = seen_by_hooks(denoiser)
    assert len(seen) == sum(len(block.resnets) for block in denoiser.up_blocks)
    expected = {
        f"{name}.{layer}": parts
        for name, parts in seen.items()
        for layer in ("conv1", "conv_shortcut")
        if denoiser.get_submodule(name)._modules[layer] is not None
    }
    assert concatenations(denoiser) == expected
    for name, parts in expected.items():
        assert sum(parts) == denoiser.get_submodule(name).in_channels


def test_stable_diffusion_has_12_shortcuts_of_10560_outputs() -> None:
    """As the paper counts them: .33M = outputs of all layers and of the second parts of the shortcuts."""
    denoiser = empty(SD15)
    found = concatenations(denoiser)
    shortcuts = [denoiser.get_submodule(name) for name in found if name.endswith("conv_shortcut")]
    assert (len(shortcuts), sum(layer.out_channels for layer in shortcuts)) == (12, 10_560)
    assert len(found) == 24
    assert found["up_blocks.0.resnets.0.conv1"] == (1280, 1280)
    assert found["up_blocks.1.resnets.2.conv_shortcut"] == (1280, 640)
    assert found["up_blocks.3.resnets.0.conv1"] == (640, 320)


def test_a_block_without_a_shortcut_convolution_has_the_other() -> None:
    """It adds what it is given as it is, where it has as many outputs as inputs."""
    denoiser = empty(SD15)
    denoiser.up_blocks[3].resnets[0].conv_shortcut = None
    found = concatenations(denoiser)
    assert len(found) == 23
    assert "up_blocks.3.resnets.0.conv1" in found


def test_a_decoder_without_skip_connections_is_refused() -> None:
    denoiser = empty(DENOISER)
    denoiser.up_blocks[1].resnets[0].in_channels = denoiser.up_blocks[0].resnets[-1].out_channels
    with pytest.raises(UserError, match=r"must take a skip connection, got none in up_blocks\.1\.resnets\.0"):
        concatenations(denoiser)
