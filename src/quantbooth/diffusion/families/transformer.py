"""The base class of families with a transformer: its blocks, the arguments of its call, and its folder's files."""

import inspect
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from quantbooth.diffusion.families.folder_config import (
    CONFIG,
    Parts,
    levels,
    network_config,
    number_above_0,
    require_index,
    whole,
)
from quantbooth.diffusion.model import Family

__all__ = ["TransformerFamily"]


@cache
def _parameters(kind: Any) -> inspect.Signature:
    return inspect.signature(kind.forward)


class TransformerFamily(Family):
    """A denoiser that is a transformer.

    Attributes:
        call_names: of two arguments of its call: a tensor with a row per sample, and the network time.
        block_classes: diffusers' classes of its repeated blocks.
        scheduler_kinds: names of diffusers' classes that its scheduler configuration may be of.
        denoiser_values: the supported values of keys of the transformer.
        former_values: the supported `_class_name` of the transformer and keys that only an older class has.
        autoencoder_values: the supported values of keys of the autoencoder.
        autoencoder_keys: further keys of it, which its class does not have and the family reads.
        latent_channels: the key of its number of channels.
        switches: the supported values of keys of the index that are no parts.
    """

    component = "transformer"
    call_names: ClassVar[tuple[str, str]] = ("hidden_states", "timestep")
    block_classes: ClassVar[tuple[type, ...]]
    scheduler_kinds: ClassVar[Collection[str]]
    denoiser_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    former_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    autoencoder_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {"in_channels": (3,), "out_channels": (3,)}
    autoencoder_keys: ClassVar[Collection[str]] = ()
    latent_channels: ClassVar[str] = "latent_channels"
    switches: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def blocks(self, denoiser: nn.Module) -> list[str]:
        return [name for name, module in denoiser.named_modules() if isinstance(module, self.block_classes)]

    def call_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """Return the arguments of `call_names`, given by position or by keyword."""
        given = _parameters(self.denoiser_class).bind_partial(None, *args, **kwargs).arguments
        rows, time = self.call_names
        return given[rows], given[time]

    def parts_config(self, folder: Path) -> tuple[dict[str, Any], dict[str, Any], int]:
        """Return the configurations of transformer and autoencoder, and the autoencoder's downsampling factor.

        Raises:
            UserError: naming the file, the key and its value that are not supported.
        """
        parts = Parts(
            self.pipeline_class,
            self.component,
            self.former_values.get("_class_name", (self.denoiser_class.__name__,)),
            self.autoencoders,
            self.text_classes,
            self.scheduler_kinds,
            self.switches,
        )
        autoencoder = require_index(folder, parts)
        values, former = self.denoiser_values, self.former_values
        transformer = network_config(folder, self.component, self.denoiser_class, values, former)
        vae = network_config(folder, "vae", autoencoder, self.autoencoder_values, further=self.autoencoder_keys)
        if "scaling_factor" in vae:
            number_above_0(folder / "vae" / CONFIG, vae, "scaling_factor")
        whole(folder / "vae" / CONFIG, vae, self.latent_channels)
        return transformer, vae, 2 ** (levels(folder, vae) - 1)
