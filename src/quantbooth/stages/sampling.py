"""Sampling under Lightning's predict loop: requests in, one PNG each out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from quantbooth.artifacts.image_set import Request, write_image
from quantbooth.data.draws import place_loader
from quantbooth.data.protocol import AUTO
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.sampling import Sampler, initial_noise
from quantbooth.stages.batch_size import batch_that_fits, free_memory

__all__ = ["SamplingStage"]


class SamplingStage(LightningModule):
    """Renders requests in batches; the noise of each comes from its template and seed alone, not from its batch."""

    def __init__(self, base: Base, sampler: Sampler, requests: Sequence[Request], folder: Path) -> None:
        super().__init__()
        self.base = base
        self.parts = base.networks  # so that all move together
        self.sampler = sampler
        self.requests = tuple(requests)
        self.folder = folder

    def predict_step(self, places: list[int]) -> int:
        chosen = [self.requests[place] for place in places]
        for request, image in zip(chosen, self.render(chosen), strict=True):
            write_image(self.folder / request.file, image)
        return len(chosen)

    def loader(self, batch: int | str, device: torch.device) -> DataLoader[list[int]]:
        """Places of all requests, so many at a time; AUTO finds by one cheap step how many fit on the device."""
        count = len(self.requests)
        if batch == AUTO:
            self.to(device)
            batch = batch_that_fits(count, self._one_step, free_memory(device))
        return place_loader(count, int(batch))

    def _one_step(self, count: int) -> None:
        some = SamplingStage(self.base, replace(self.sampler, steps=1), self.requests, self.folder)
        some.render(self.requests[:count])

    def render(self, requests: Sequence[Request]) -> Float[Tensor, "b 3 h w"]:
        """The pictures of some requests."""
        side, channels = self.base.unet.config.sample_size, self.base.unet.config.in_channels
        noise = initial_noise([r.prompt for r in requests], [r.seed for r in requests], (channels, side, side))
        return self.sampler.sample(self.base, [r.text for r in requests], noise)
