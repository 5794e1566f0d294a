"""The base as a locator: cross-attention of its denoiser to the class word, on a noised picture."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import load_base
from quantbooth.evaluation.folders import digest
from quantbooth.evaluation.locators import Boxes, Locator, boxes_of_likelihoods
from quantbooth.runtime.errors import UserError

__all__ = ["AttentionLocator"]

BEFORE = "a photo of a"


class AttentionLocator(Locator):
    """Pixels where the cross-attention to the class word is near its peak, in the float untuned base for all methods.

        a(x) = mean over t, layers, heads of softmax(q k^T / sqrt(d)) at x, summed over the class word's tokens

    at x_t with one fixed noise for all pictures. Where the peak is at most `contrast` times the mean, the subject
    counts as not found.

    Args:
        folder: of the base, in diffusers format; read for the first picture.
        timesteps: training timesteps of the forwards.
        threshold: share of the peak above which a pixel belongs to the subject.
        least: smallest share of the picture that a subject covers; less counts as not found.

    Raises:
        UserError: when a picture has another size than the base's (when called).
    """

    tells_pixels = True

    def __init__(
        self, folder: Path, timesteps: Sequence[int], threshold: float, least: float = 0.005, contrast: float = 1.2
    ) -> None:
        super().__init__()
        self.folder, self.timesteps = Path(folder), tuple(timesteps)
        self.threshold, self.least, self.contrast = threshold, least, contrast

    @property
    def name(self) -> str:
        looks = ", ".join(map(str, self.timesteps))
        numbers = f"above {self.threshold:.15g}, at least {100 * self.least:.15g}%, contrast {self.contrast:.15g}"
        return f"attention of base sha256:{self._digest} at t {looks}, {numbers}"

    @torch.no_grad()
    def maps(self, pictures: Float[Tensor, "b 3 h w"], class_word: str) -> Float[Tensor, "b h w"]:
        """Return a(x), resized to the picture."""
        base = self._base_on(pictures.device)
        if tuple(pictures.shape[2:]) != (base.side, base.side):
            height, width = pictures.shape[2:]
            raise UserError(f"the attention locator reads {base.side} x {base.side} pictures, got {width} x {height}")
        z, schedule = base.encode_images(pictures), base.schedule
        conditioning = base.encode_prompts([f"{BEFORE} {class_word}"]).expand(len(z))
        noise = torch.randn(z.shape[1:], generator=torch.Generator().manual_seed(0)).to(z).expand_as(z)
        with _watched(base.denoiser, _places(base, class_word), z.shape[2:]) as seen:
            for step in self.timesteps:
                t = torch.full((len(z),), step, device=z.device)
                base.predict(schedule.add_noise(z, noise, t), t, conditioning)
        looked = torch.stack([interpolate(one[:, None], size=z.shape[2:], mode="bilinear") for one in seen]).mean(0)
        return interpolate(looked, size=pictures.shape[2:], mode="bilinear")[:, 0]

    def boxes(self, pictures: Float[Tensor, "b 3 h w"], class_word: str) -> Boxes:
        looked = self.maps(pictures, class_word)
        peak = looked.amax(dim=(1, 2), keepdim=True)
        tells = peak > self.contrast * looked.mean(dim=(1, 2), keepdim=True)
        return boxes_of_likelihoods(looked / peak * tells, self.threshold, self.least)

    def _base_on(self, device: torch.device) -> Base:
        if self._base.device != device:
            self._base.networks.to(device)
        return self._base

    @cached_property
    def _digest(self) -> str:
        return digest(self.folder)

    @cached_property
    def _base(self) -> Base:
        base = load_base(self.folder, "locator")
        if (last := max(self.timesteps)) >= base.timesteps:
            raise UserError(f"locator.timesteps must be in [0, {base.timesteps}), got {last}")
        return base


def _places(base: Base, class_word: str) -> slice:
    """Return the positions of the class word's tokens in the prompt."""
    before, whole = (len(base.tokenizer(text).input_ids) for text in (BEFORE, f"{BEFORE} {class_word}"))
    return slice(before - 1, whole - 1)  # both end with an end token


@contextmanager
def _watched(denoiser: Any, places: slice, shape: Sequence[int]) -> Iterator[list[Tensor]]:
    """Yield the attention of each cross-attention layer to some tokens, [b, h, w] per call."""
    seen: list[Tensor] = []

    def look(layer: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        hidden, text = args[0] if args else given["hidden_states"], given["encoder_hidden_states"]
        query, key = (layer.head_to_batch_dim(part) for part in (layer.to_q(hidden), layer.to_k(text)))
        shares = layer.get_attention_scores(query, key)[..., places].sum(dim=-1)
        count = shares.shape[1]
        finer = round((shape[0] * shape[1] / count) ** 0.5)
        seen.append(shares.reshape(len(hidden), -1, count).mean(1).reshape(-1, shape[0] // finer, shape[1] // finer))

    layers = [one for one in denoiser.modules() if isinstance(one, Attention) and one.is_cross_attention]
    hooks = [layer.register_forward_pre_hook(look, with_kwargs=True) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
