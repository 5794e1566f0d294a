"""Which layers of a unet see a concatenation, and how many of their inputs come from where.

Every ResNet block of the decoder takes torch.cat([hidden, skip]): `hidden` comes from the block before it, `skip` from
the encoder, and their ranges differ. Two convolutions see both, channel by channel: `conv_shortcut` as they are,
`conv1` after a normalization. Q-Diffusion (arXiv 2302.04304) splits the former; its reason holds for both.
"""

from diffusers import UNet2DConditionModel
from torch import nn

from quantbooth.errors import UserError

__all__ = ["concatenations"]

LAYERS = ("conv1", "conv_shortcut")


def concatenations(unet: UNet2DConditionModel) -> dict[str, tuple[int, int]]:
    """The layers by name, each with its inputs (from the block before, from the encoder).

    `hidden` has the outputs of the ResNet block before, which attention and up-sampling keep; at first the widest of
    the encoder, which the middle keeps.

    Raises:
        UserError: when a decoder is of another build, and does not take a skip connection in every ResNet block.
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
