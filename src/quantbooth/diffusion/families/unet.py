"""What families with diffusers' UNet2DConditionModel share: architecture, blocks, time, samplers, names in files."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from quantbooth.diffusion.model import Family
from quantbooth.diffusion.original_names import original_name
from quantbooth.diffusion.schedule import Schedule
from quantbooth.diffusion.shortcuts import concatenations

__all__ = ["DDPM_SCHEDULERS", "UnetFamily"]

BLOCKS = (ResnetBlock2D, BasicTransformerBlock)

DDPM_SCHEDULERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpm": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "pndm": PNDMScheduler,
}
"""All of them hand the network positions on the training axis [0, T)."""


class UnetFamily(Family):
    """A unet trained on a DDPM schedule; network time is the training timestep."""

    component = "unet"
    denoiser_class = UNet2DConditionModel
    schedulers: ClassVar[Mapping[str, Any]] = DDPM_SCHEDULERS
    float_layers = ("conv_in", "conv_out")
    lora_prefixes = ("lora_unet_",)
    first_weight = "model.diffusion_model.input_blocks.0.0.weight"

    def latent_shape(self, denoiser: Any) -> tuple[int, int, int]:
        side = int(denoiser.config.sample_size)
        return int(denoiser.config.in_channels), side, side

    def blocks(self, denoiser: nn.Module) -> list[str]:
        return [name for name, module in denoiser.named_modules() if isinstance(module, BLOCKS)]

    def skip_splits(self, denoiser: Any) -> dict[str, tuple[int, int]]:
        return concatenations(denoiser)

    def schedule(self, scheduler_config: Mapping[str, Any]) -> Schedule:
        return Schedule(scheduler_config)

    def call_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """Return `sample` and `timestep`, given by position or by keyword."""
        sample = args[0] if args else kwargs["sample"]
        return sample, args[1] if len(args) > 1 else kwargs["timestep"]

    def training_timestep(self, network_time: Tensor) -> Tensor:
        return network_time

    def lora_names(self, denoiser: nn.Module, layer: str) -> Iterator[str]:
        """Return the original code's name of a layer, as kohya writes it."""
        if (name := original_name(denoiser, layer)) is not None:
            yield f"{self.lora_prefixes[0]}{name.replace('.', '_')}"
