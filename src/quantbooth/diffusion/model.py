"""The interface of a model family: what a new kind of diffusers pipeline must implement.

Modules and samplers call a `Base` (`diffusion/base.py`): `predict`, `encode_prompts`, `latent_shape`, `blocks`,
`schedule`. A base delegates to its `Family`, which implements one kind of diffusers pipeline. Units of time:

    t                training timestep in [0, T), fractional in some samplers; the unit of zones, sets and files
    network time     the timestep input of the network (t for Stable Diffusion; t / 1000, 1000 sigma, ... elsewhere)
    step             an optimizer step, never a time

`Family.predict` converts t to network time; `Family.training_timestep` is the inverse, for the router, which only sees
the arguments of the network's call. A family is one file in `diffusion/families/`, listed in `families/registry.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

from diffusers import AutoencoderKL, AutoencoderTiny
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.noise_schedule import NoiseSchedule
from quantbooth.diffusion.prompt_length import require_whole
from quantbooth.diffusion.scheduler_config import new_scheduler
from quantbooth.runtime.errors import UserError

__all__ = ["AUTOENCODERS", "Family", "Shape", "TextEncoder", "recomputed"]

AUTOENCODERS: Mapping[str, Any] = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
"""Diffusers' classes of autoencoders that most families have, by their names."""


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder and its tokenizer.

    Attributes:
        network: of transformers.
        tokenizer: of transformers.
    """

    network: Any
    tokenizer: Any

    def ids(self, prompts: Sequence[str], length: int | None = None) -> Int[Tensor, "b length"]:
        """Return token ids, padded to a length, by default the tokenizer's full one, on the network's device.

        Raises:
            UserError: for a prompt that is longer.
        """
        return self.read(prompts, length).input_ids

    def read(self, prompts: Sequence[str], length: int | None = None) -> Any:
        """Return `input_ids` and `attention_mask` [b, length], 1 at the tokens of the prompt; otherwise as `ids`."""
        require_whole([self.tokenizer], prompts, [length])
        length = length or self.tokenizer.model_max_length
        found = self.tokenizer(list(prompts), padding="max_length", max_length=length, return_tensors="pt")
        return found.to(self.network.device, non_blocking=True)


@dataclass(frozen=True)
class Shape:
    """What a base's configuration files say: (channels, height, width) of latents, side in pixels, T timesteps."""

    latents: tuple[int, int, int]
    side: int
    timesteps: int


def recomputed(module: nn.Module, *inputs: Any) -> Any:
    """Call a block whose activations are computed again; nothing in a denoiser draws numbers, so no state is kept."""
    return checkpoint(module.__call__, *inputs, use_reentrant=False, preserve_rng_state=False)


class Family(ABC):
    """One kind of diffusers text-to-image pipeline; it has no weights, so bases may share it.

    Attributes:
        component: name of the denoiser in the pipeline, and of its folder ("unet", "transformer").
        denoiser_class: diffusers' class of the denoiser.
        text_classes: transformers' classes of each text encoder and its tokenizer, in the order of `text_encoder`,
            `text_encoder_2`, ...
        text_lengths: tokens that each text encoder reads; None is `model_max_length`, as all are by default.
        large_texts: classes of text encoders that stay in the precision of their files, as the others do not.
        absent_parts: parts that are null in `model_index.json`; diffusers' `from_pretrained` wants them as None.
        pipeline_class: diffusers' class of the pipeline.
        call_options: of the pipeline's call, without which it draws otherwise than samplers.
        autoencoders: diffusers' classes of the autoencoder by their names.
        schedulers: schedulers by our names, called as diffusers', whose timesteps are training timesteps.
        guided: whether samplers guide with an unconditional prediction; not where guidance was distilled into it.
        negative_prompts: whether that of another prompt than the empty one is supported.
        float_layers: patterns of the denoiser's layers that stay float by default.
        rowless_layers: patterns of those not to quantize or adapt: inputs without rows, or a weight read elsewhere.
        same_shapes: whether blocks get tensors of the same shapes for all prompts, as learned rounding needs.
        recordable: whether its denoiser copies nothing from the CPU, which graphs of CUDA refuse.
        lora_prefixes: prefixes of the denoiser's layers in kohya's LoRA files.
        first_weight: a tensor name that every single-file checkpoint of the family has; None without such files.
        architectures: keys of such a file's header, and how their values begin for this family.
    """

    component: ClassVar[str]
    denoiser_class: ClassVar[Any]
    text_classes: ClassVar[tuple[tuple[Any, Any], ...]]
    text_lengths: ClassVar[tuple[int | None, ...] | None] = None
    large_texts: ClassVar[tuple[Any, ...]] = ()
    absent_parts: ClassVar[tuple[str, ...]] = ()
    pipeline_class: ClassVar[Any]
    call_options: ClassVar[Mapping[str, Any]] = {}
    autoencoders: ClassVar[Mapping[str, Any]] = AUTOENCODERS
    schedulers: ClassVar[Mapping[str, Any]]
    guided: ClassVar[bool] = True
    negative_prompts: ClassVar[bool] = True
    float_layers: ClassVar[tuple[str, ...]] = ()
    rowless_layers: ClassVar[tuple[str, ...]] = ()
    same_shapes: ClassVar[bool] = True
    recordable: ClassVar[bool] = True
    lora_prefixes: ClassVar[tuple[str, ...]] = ()
    first_weight: ClassVar[str | None] = None
    architectures: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    # ---- the network

    @abstractmethod
    def predict(
        self,
        denoiser: nn.Module,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return the denoiser's prediction at x_t: noise, velocity or flow, as the schedule's target.

        Args:
            denoiser: float or quantized.
            x_t: noised latents.
            t: training timesteps, one per sample or one for all.
            conditioning: from `encode_prompts`, a row per sample.
        """

    def guide(
        self, unconditional: Float[Tensor, "b c h w"], conditional: Float[Tensor, "b c h w"], guidance: float
    ) -> Float[Tensor, "b c h w"]:
        """Return the prediction e_uncond + w (e_cond - e_uncond) of classifier-free guidance (arXiv 2207.12598)."""
        return unconditional + guidance * (conditional - unconditional)

    @abstractmethod
    def latent_shape(self, denoiser: nn.Module) -> tuple[int, int, int]:
        """Return (channels, height, width) of the latents at the denoiser's training resolution."""

    @abstractmethod
    def blocks(self, denoiser: nn.Module) -> list[str]:
        """Return the names of the blocks that calibration reconstructs one at a time (BRECQ); they do not nest."""

    def require_rows(self, layers: Iterable[str], option: str) -> None:
        """Check that layers to quantize or to adapt have a row per sample.

        Raises:
            UserError: for the first that has not, with the option that chooses layers.
        """
        for layer in layers:
            for pattern in self.rowless_layers:
                if fnmatchcase(layer, pattern):
                    raise UserError(
                        f"{option} must leave out {pattern} for this base, where the layer {layer} mixes samples into "
                        "rows, or its weight is read directly"
                    )

    def skip_splits(self, denoiser: nn.Module) -> dict[str, tuple[int, int]]:
        """Return the layers that read a concatenation: name -> (inputs from the previous block, from the encoder).

        Raises:
            UserError: when the family has no skip connections.
        """
        raise UserError(f"quant.split_skips=true needs skip connections, and a {type(denoiser).__name__} has none")

    def enable_gradient_checkpointing_(self, denoiser: Any) -> None:
        """Recompute the activations of blocks in the backward pass instead of saving them."""
        denoiser.enable_gradient_checkpointing(recomputed)

    def new_denoiser(self, config: Mapping[str, Any]) -> Any:
        """Return a denoiser of this architecture with random weights, or without weights on the meta device."""
        return self.denoiser_class.from_config(dict(config))

    def keep_tables_on_cpu_(self, denoiser: Any) -> None:  # noqa: B027
        """Let a table of which predictions read a small part stay on the CPU; most families have none."""

    # ---- time

    @abstractmethod
    def schedule(self, scheduler_config: Mapping[str, Any]) -> NoiseSchedule:
        """Return the noise schedule of training.

        Raises:
            UserError: when it is not of the family's kind.
        """

    @abstractmethod
    def call_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """Return two arguments of a call of the network: a tensor with a row per sample, and the network time."""

    def network_time(self, t: Tensor, rows: int) -> Tensor:
        """Return the network's time of t, one number a row; the inverse of `training_timestep`, linear in t."""
        return t.expand(rows)

    @abstractmethod
    def training_timestep(self, network_time: Tensor) -> Tensor:
        """Convert network time to t; the inverse of `network_time`."""

    def new_scheduler(
        self, name: str, scheduler_config: Mapping[str, Any], steps: int, latent_shape: tuple[int, int, int]
    ) -> Any:
        """Return a new diffusers scheduler with its timesteps set.

        Args:
            name: one of `schedulers`.
            scheduler_config: of the base.
            steps: number of inference steps.
            latent_shape: of the latents; some flow families shift their timesteps by it.

        Raises:
            UserError: when the family does not have this scheduler, or the scheduler cannot honour the configuration.
        """
        if name not in self.schedulers:
            offered = ", ".join(self.schedulers)
            raise UserError(f"sampler.scheduler must be one of {offered} for this base, got {name!r}")
        return new_scheduler(self.schedulers, name, self.sampler_config(scheduler_config), steps)

    def sampler_config(self, scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the scheduler configuration as the family's pipeline changes it before it draws."""
        return dict(scheduler_config)

    # ---- text and pictures

    @abstractmethod
    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return the conditioning of prompts, a row each.

        Args:
            encoders: all text encoders of the base.
            prompts: the prompts; the empty one is the unconditional prompt of guidance.
            side: of the pictures, in pixels.
        """

    def require_whole(self, tokenizers: Sequence[Any], prompts: Iterable[str]) -> None:
        """Check that the text encoders read every prompt whole.

        Raises:
            UserError: for the first that is longer than their length, with the words that would be lost.
        """
        require_whole(tokenizers, prompts, self.text_lengths)

    def pixels_per_latent(self, autoencoder: Any) -> int:
        """Return the downsampling factor of the autoencoder, in pixels per latent."""
        return 2 ** (len(autoencoder.config.block_out_channels) - 1)

    def encode_images(self, autoencoder: Any, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c hl wl"]:
        """Return latents of about unit variance of images in [0, 1] (the posterior's mode where there is one)."""
        posterior = autoencoder.encode(images * 2 - 1)
        latents = posterior.latent_dist.mode() if hasattr(posterior, "latent_dist") else posterior.latents
        return (latents - (autoencoder.config.get("shift_factor") or 0)) * autoencoder.config.scaling_factor

    def decode_latents(self, autoencoder: Any, latents: Float[Tensor, "b c hl wl"]) -> Float[Tensor, "b 3 h w"]:
        """Decode latents to images in [0, 1]; the approximate inverse of `encode_images`."""
        shift = autoencoder.config.get("shift_factor") or 0
        images = autoencoder.decode(latents / autoencoder.config.scaling_factor + shift).sample
        return (images / 2 + 0.5).clamp(0, 1)

    # ---- files

    @abstractmethod
    def examine(self, folder: Path) -> Shape:
        """Return what the configuration files of a base say, without its weights.

        Raises:
            UserError: when one says what the family does not honour, naming the file, the key and its value.
        """

    @classmethod
    def from_folder(cls, folder: Path, index: Mapping[str, Any]) -> "Family":
        """Return the family configured by a folder and its `model_index.json`."""
        return cls()

    @abstractmethod
    def pipeline(self, parts: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> Any:
        """Return a diffusers pipeline of networks and tokenizers by its own names, without a safety checker."""

    def original_names(self, denoiser: nn.Module) -> Iterable[str]:
        """Return the names of the denoiser's weights in single-file checkpoints, after its own beginning."""
        return ()

    def lora_names(self, denoiser: nn.Module, layer: str) -> Iterable[str]:
        """Return other names of a denoiser's layer in LoRA files of other tools, without the factor's suffix."""
        return ()
