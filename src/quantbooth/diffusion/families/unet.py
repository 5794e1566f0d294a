"""The base class of families with diffusers' UNet2DConditionModel: blocks, skip splits, LoRA names.

Every ResNet block of the decoder reads torch.cat([hidden, skip]): `hidden` comes from the previous block, `skip` from
the encoder, and their ranges differ. Two convolutions read both: `conv_shortcut` directly, `conv1` after a
normalization. Q-Diffusion (arXiv 2302.04304) splits the former; its reason applies to both.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from quantbooth.diffusion.families.ddpm import DdpmFamily
from quantbooth.diffusion.families.folder_config import latent_shape
from quantbooth.diffusion.families.unet_config import require_supported
from quantbooth.diffusion.lora_names import original_name
from quantbooth.diffusion.model import Shape
from quantbooth.diffusion.scheduler_config import read_scheduler_config
from quantbooth.runtime.errors import UserError

__all__ = ["UnetFamily", "concatenations"]

LAYERS = ("conv1", "conv_shortcut")


def concatenations(unet: UNet2DConditionModel) -> dict[str, tuple[int, int]]:
    """Return the layers that read a concatenation, by name: inputs (from the previous block, from the encoder).

    `hidden` has the channels of the previous ResNet block, which attention and upsampling do not change; at first those
    of the encoder's last block, which the middle block does not change.

    Raises:
        UserError: when the decoder has a ResNet block without a skip connection.
    """
    found = {}
    hidden = unet.config.block_out_channels[-1]
    for number, block in enumerate(unet.up_blocks):
        for place, resnet in enumerate(block.resnets):
            name, skip = f"up_blocks.{number}.resnets.{place}", resnet.in_channels - hidden
            if skip < 1:
                raise UserError(f"every ResNet block of a decoder must take a skip connection, got none in {name}")
            convolutions = [layer for layer in LAYERS if isinstance(getattr(resnet, layer, None), nn.Conv2d)]
            found.update({f"{name}.{layer}": (hidden, skip) for layer in convolutions})
            hidden = resnet.out_channels
    return found


BLOCKS = (ResnetBlock2D, BasicTransformerBlock)


class UnetFamily(DdpmFamily):
    """A unet trained on a DDPM schedule.

    Attributes:
        denoiser_values: the supported values of keys of the unet that the family itself reads.
    """

    component = "unet"
    denoiser_class = UNet2DConditionModel
    float_layers = ("conv_in", "conv_out")
    lora_prefixes = ("lora_unet_",)
    first_weight = "model.diffusion_model.input_blocks.0.0.weight"

    denoiser_values: ClassVar[Mapping[str, tuple[Any, ...]]]

    def latent_shape(self, denoiser: Any) -> tuple[int, int, int]:
        return latent_shape(denoiser.config, self.component)

    def examine(self, folder: Path) -> Shape:
        unet, factor = require_supported(folder, self.pipeline_class, self.text_classes, self.denoiser_values)
        latents = latent_shape(unet, self.component)
        timesteps = self.schedule(read_scheduler_config(folder)).timesteps
        return Shape(latents, latents[-1] * factor, timesteps)

    def blocks(self, denoiser: nn.Module) -> list[str]:
        return [name for name, module in denoiser.named_modules() if isinstance(module, BLOCKS)]

    def skip_splits(self, denoiser: Any) -> dict[str, tuple[int, int]]:
        return concatenations(denoiser)

    def call_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """Return `sample` and `timestep`, given by position or by keyword."""
        sample = args[0] if args else kwargs["sample"]
        return sample, args[1] if len(args) > 1 else kwargs["timestep"]

    def original_names(self, denoiser: nn.Module) -> Iterator[str]:
        return filter(None, (original_name(denoiser, name) for name in denoiser.state_dict()))

    def lora_names(self, denoiser: nn.Module, layer: str) -> Iterator[str]:
        """Return the original code's name of a layer, as kohya writes it."""
        if (name := original_name(denoiser, layer)) is not None:
            yield f"{self.lora_prefixes[0]}{name.replace('.', '_')}"
