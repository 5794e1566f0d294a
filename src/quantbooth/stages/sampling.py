"""Sampling under Lightning's predict loop: requests in, one PNG each out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from quantbooth.diffusion.router import SubjectsRoute
from quantbooth.diffusion.sampling import Sampler, initial_noise
from quantbooth.stages.batch_size import batch_that_fits, free_memory

__all__ = ["SamplingStage", "Share", "SubjectsSampling"]


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
        for place, image in zip(places, self.render(chosen), strict=True):
            write_image(self.path(place), image)
        return len(chosen)

    def path(self, place: int) -> Path:
        """Where the picture of a request goes."""
        return self.folder / self.requests[place].file

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


@dataclass(frozen=True)
class Share:
    """What one of several subjects is asked, and the folder its pictures go to."""

    requests: tuple[Request, ...]
    folder: Path


class SubjectsSampling(SamplingStage):
    """Renders what several subjects are asked, their rows mixed in a batch; `route` serves each row by its subject.

    Args:
        base: its unet holds the sets of all subjects, or none.
        sampler: as of `SamplingStage`.
        shares: of each subject, in the order of their sets.
        route: that of the base's unet; None where the base is drawn untuned.
    """

    def __init__(self, base: Base, sampler: Sampler, shares: Sequence[Share], route: SubjectsRoute | None) -> None:
        super().__init__(base, sampler, [request for share in shares for request in share.requests], Path())
        self.paths = [share.folder / request.file for share in shares for request in share.requests]
        self.subjects = torch.tensor([subject for subject, share in enumerate(shares) for _ in share.requests])
        self.route = route

    def predict_step(self, places: list[int]) -> int:
        self._serve(places)
        return super().predict_step(places)

    def path(self, place: int) -> Path:
        return self.paths[place]

    def _one_step(self, count: int) -> None:
        self._serve(range(count))
        super()._one_step(count)

    def _serve(self, places: Sequence[int]) -> None:
        if self.route is not None:
            self.route.choose(self.subjects[list(places)])
