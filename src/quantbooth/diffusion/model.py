"""The seam: what the rest of the program may ask of a base, and so what a new family of denoisers must answer.

Stages and samplers talk to a `Base` (`diffusion/base.py`): `predict`, `encode_prompts`, `latent_shape`, `blocks`,
`schedule`. A base asks its `Family`, which knows one kind of diffusers pipeline. Three units of time meet here:

    t                training timestep in [0, T), fractional in some samplers; the unit of zones, sets and files
    network time     what the network itself is given (t for Stable Diffusion; t / 1000, 1000 sigma, ... elsewhere)
    step             an optimizer step, never a time

`Family.predict` takes t and hands the network its own time; `Family.training_timestep` is the inverse, for the router,
which only sees the network's call. A family is one file in `diffusion/families/`, named in `families/registry.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.runtime.errors import UserError

__all__ = ["Family", "NoiseSchedule", "TextEncoder"]


@runtime_checkable
class NoiseSchedule(Protocol):
    """How a family noises latents, and what its denoiser is asked to predict; t is a training timestep."""

    @property
    def timesteps(self) -> int:
        """Return T, the number of training timesteps."""

    def snr(self) -> Float[Tensor, " timesteps"]:
        """Return the signal-to-noise ratio of each training timestep, falling in t."""

    def add_noise(
        self, x_0: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Return x_t."""

    def target(
        self, x_0: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Return what the denoiser is asked to predict at x_t."""

    def origin(
        self, x_t: Float[Tensor, "b ..."], predicted: Float[Tensor, "b ..."], t: Tensor
    ) -> Float[Tensor, "b ..."]:
        """Return the x_0 that a prediction stands for; t is one timestep for the whole batch."""

    def bounded_inverse_weight(self, t: Int[Tensor, " b"], bound: float) -> Float[Tensor, " b"]:
        """Return the loss weight min(1 / signal power of x_t, bound) of each sample."""

    def first_timestep_below(self, snr: float) -> int:
        """Return the first t whose signal-to-noise ratio is below the given one, T where there is none."""


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder and its tokenizer.

    Attributes:
        network: of transformers.
        tokenizer: of transformers.
    """

    network: Any
    tokenizer: Any

    def ids(self, prompts: Sequence[str]) -> Int[Tensor, "b length"]:
        """Return token ids, padded or cut to the tokenizer's full length, on the network's device."""
        length = self.tokenizer.model_max_length
        found = self.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return found.input_ids.to(self.network.device)


class Family(ABC):
    """Knows one kind of diffusers text-to-image pipeline; a value without weights, so a base may share it.

    Attributes:
        component: name of the denoiser in the pipeline, and of its folder ("unet", "transformer").
        denoiser_class: diffusers' class of it.
        text_classes: transformers' classes of each text encoder and its tokenizer, in the order of `text_encoder`,
            `text_encoder_2`, ...
        pipeline_class: diffusers' class of the whole.
        schedulers: diffusers' samplers by our names; each must hand the network times on its own axis.
        float_layers: patterns of the layers of the denoiser that are not quantized unless asked.
        lora_prefixes: what kohya's LoRA files write before the names of the denoiser's layers.
        first_weight: a name that every single-file checkpoint of the family has; None where there are no such files.
    """

    component: ClassVar[str]
    denoiser_class: ClassVar[Any]
    text_classes: ClassVar[tuple[tuple[Any, Any], ...]]
    pipeline_class: ClassVar[Any]
    schedulers: ClassVar[Mapping[str, Any]]
    float_layers: ClassVar[tuple[str, ...]] = ()
    lora_prefixes: ClassVar[tuple[str, ...]] = ()
    first_weight: ClassVar[str | None] = None

    # ---- the network

    @abstractmethod
    def predict(
        self,
        denoiser: nn.Module,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return what the denoiser predicts at x_t: noise, velocity or flow, whatever the schedule's target is.

        Args:
            denoiser: float or quantized.
            x_t: noised latents.
            t: training timesteps, one per sample or one for all.
            conditioning: of `encode_prompts`, a row per sample.
        """

    @abstractmethod
    def latent_shape(self, denoiser: nn.Module) -> tuple[int, int, int]:
        """Return (channels, height, width) of the latents of the pictures it was made for."""

    @abstractmethod
    def blocks(self, denoiser: nn.Module) -> list[str]:
        """Return the names of the modules whose layers calibration learns together; none is inside another."""

    def skip_splits(self, denoiser: nn.Module) -> dict[str, tuple[int, int]]:
        """Return the layers that see a concatenation: name -> (inputs from the block before, from the encoder).

        Raises:
            UserError: when the family has no skip connections.
        """
        raise UserError(f"quant.split_skips=true needs skip connections, and a {type(denoiser).__name__} has none")

    def enable_gradient_checkpointing_(self, denoiser: Any) -> None:
        """Let the backward pass compute the inside of blocks again in the place of keeping it."""
        denoiser.enable_gradient_checkpointing()

    def new_denoiser(self, config: Mapping[str, Any]) -> Any:
        """Return a denoiser of this architecture with random weights, or without any on the meta device."""
        return self.denoiser_class.from_config(dict(config))

    # ---- time

    @abstractmethod
    def schedule(self, scheduler_config: Mapping[str, Any]) -> NoiseSchedule:
        """Return the noise schedule of training.

        Raises:
            UserError: when it is of another kind than the family's.
        """

    @abstractmethod
    def call_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """Return from the arguments of a call of the network: a tensor with a row per sample, and the network time."""

    @abstractmethod
    def training_timestep(self, network_time: Tensor) -> Tensor:
        """Return t of network time; the inverse of what `predict` hands the network."""

    def new_scheduler(
        self, name: str, scheduler_config: Mapping[str, Any], steps: int, latent_shape: tuple[int, int, int]
    ) -> Any:
        """Return a fresh sampler with its timesteps set.

        Args:
            name: one of `schedulers`.
            scheduler_config: of the base.
            steps: calls of the denoiser.
            latent_shape: of `latent_shape`; some flow families shift their times by it.

        Raises:
            UserError: when the family does not have this sampler.
        """
        if name not in self.schedulers:
            offered = ", ".join(self.schedulers)
            raise UserError(f"sampler.scheduler must be one of {offered} for this base, got {name!r}")
        scheduler = self.schedulers[name].from_config(dict(scheduler_config))
        scheduler.set_timesteps(steps)
        return scheduler

    # ---- text and pictures

    @abstractmethod
    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return the conditioning of some prompts, a row each.

        Args:
            encoders: all of the base.
            prompts: sentences; the empty one is what guidance compares with.
            side: of the pictures, in pixels.
        """

    def pixels_per_latent(self, autoencoder: Any) -> int:
        """Return how many pixels a latent's side stands for."""
        return 2 ** (len(autoencoder.config.block_out_channels) - 1)

    def encode_images(self, autoencoder: Any, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c hl wl"]:
        """Return latents of about unit variance of images in [0, 1] (the posterior's mode where there is one)."""
        posterior = autoencoder.encode(images * 2 - 1)
        latents = posterior.latent_dist.mode() if hasattr(posterior, "latent_dist") else posterior.latents
        return latents * autoencoder.config.scaling_factor

    def decode_latents(self, autoencoder: Any, latents: Float[Tensor, "b c hl wl"]) -> Float[Tensor, "b 3 h w"]:
        """Return images in [0, 1]; the inverse of `encode_images` as far as the autoencoder is one."""
        images = autoencoder.decode(latents / autoencoder.config.scaling_factor).sample
        return (images / 2 + 0.5).clamp(0, 1)

    # ---- files

    @classmethod
    def from_index(cls, index: Mapping[str, Any]) -> "Family":
        """Return the family as a folder's `model_index.json` says it."""
        return cls()

    @abstractmethod
    def pipeline(self, parts: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> Any:
        """Return a diffusers pipeline of these parts, without a safety checker.

        Args:
            parts: networks and tokenizers by the names of diffusers.
            scheduler_config: of the base.
        """

    def lora_names(self, denoiser: nn.Module, layer: str) -> Iterable[str]:
        """Return what else LoRA files of other tools call a layer of the denoiser, without what follows it."""
        return ()
