"""The base class of Stable Diffusion 3 with and without T5: its transformer, latents, sampler and files.

The network gets t = 1000 sigma. Esser et al. 2024, arXiv 2403.03206.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.models.attention import JointTransformerBlock
from jaxtyping import Float
from torch import Tensor

from quantbooth.diffusion.diffusers_folder import text_encoder_names, tokenizer_names
from quantbooth.diffusion.families.flow import FlowFamily, mu_by_patches
from quantbooth.diffusion.families.folder_config import CONFIG, clip_config, latent_shape, require_numbers
from quantbooth.diffusion.families.position_table import keep_table_on_cpu_
from quantbooth.diffusion.model import Shape
from quantbooth.runtime.errors import UserError

__all__ = ["StableDiffusion3Family"]

MAX_SHIFT = 1.16
"""The pipeline's default of the scheduler's `max_shift`."""


class StableDiffusion3Family(FlowFamily):
    """Base class of both: transformer, latents, sampler and files."""

    denoiser_class = SD3Transformer2DModel
    pipeline_class: ClassVar[Any] = StableDiffusion3Pipeline
    float_layers = ("pos_embed.*", "context_embedder", "time_text_embed.*", "norm_out.*", "proj_out")
    block_classes: ClassVar[tuple[type, ...]] = (JointTransformerBlock,)

    def latent_shape(self, denoiser: Any) -> tuple[int, int, int]:
        return latent_shape(denoiser.config, self.component)

    def keep_tables_on_cpu_(self, denoiser: Any) -> None:
        keep_table_on_cpu_(denoiser.pos_embed)

    def scheduler_options(
        self, scheduler_config: Mapping[str, Any], steps: int, latent_shape: tuple[int, int, int]
    ) -> dict[str, Any]:
        """Return mu by the number of 2 x 2 patches where the base shifts by it; else its own shift is used."""
        shifts = scheduler_config.get("use_dynamic_shifting")
        return {"mu": mu_by_patches(scheduler_config, latent_shape, MAX_SHIFT)} if shifts else {}

    def call(
        self, denoiser: Any, x_t: Tensor, t: Tensor, tokens: Float[Tensor, "b n d"], pooled: Tensor, **options: Any
    ) -> Float[Tensor, "b c h w"]:
        """Return transformer(x_t, 1000 sigma, tokens, pooled)."""
        return denoiser(
            hidden_states=x_t,
            timestep=self.network_time(t, len(x_t)).to(x_t.device),
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            **options,
        ).sample

    def examine(self, folder: Path) -> Shape:
        transformer, vae, factor = self.parts_config(folder)
        latents, timesteps = latent_shape(transformer, self.component), self.timesteps(folder)
        clips = [clip_config(folder, *names) for names in zip(text_encoder_names(2), tokenizer_names(2), strict=True)]
        file = folder / self.component / CONFIG
        wanted = {
            "in_channels": (vae["latent_channels"], "latent_channels of vae/"),
            "out_channels": (vae["latent_channels"], "latent_channels of vae/"),
            "pooled_projection_dim": (sum(clip["projection_dim"] for clip in clips), "the projections of both CLIPs"),
        }
        require_numbers(file, transformer, wanted)
        self.require_width(folder, transformer["joint_attention_dim"], sum(clip["hidden_size"] for clip in clips))
        if transformer["patch_size"] != 2 or latents[1] % 2 or latents[1] // 2 > transformer["pos_embed_max_size"]:
            raise UserError(
                f"{file}: sample_size must be even and at most 2 x pos_embed_max_size = "
                f"{2 * transformer['pos_embed_max_size']} with patch_size = 2, found {latents[1]} and "
                f"{transformer['patch_size']}"
            )
        return Shape(latents, latents[-1] * factor, timesteps)

    @abstractmethod
    def require_width(self, folder: Path, found: int, clips: int) -> None:
        """Check `joint_attention_dim` of the transformer, given the width of both CLIPs.

        Raises:
            UserError: when it does not fit.
        """
