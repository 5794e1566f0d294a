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
from quantbooth.data.draws import batch_loader
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

    def on_predict_start(self) -> None:
        """A forked process cannot use the threads of the one it was forked from."""
        if self.trainer.world_size > 1:
            torch.set_num_threads(1)

    def predict_step(self, places: list[int]) -> int:
        if not places:  # there are fewer batches than processes
            return 0
        chosen = [self.requests[place] for place in places]
        for place, image in zip(places, self.render(chosen), strict=True):
            write_image(self.path(place), image)
        return len(chosen)

    def path(self, place: int) -> Path:
        """Where the picture of a request goes."""
        return self.folder / self.requests[place].file

    @property
    def missing(self) -> list[int]:
        """Places of the requests whose pictures are not where they go."""
        return [place for place in range(len(self.requests)) if not self.path(place).is_file()]

    def loader(self, batch: int | str, device: torch.device, processes: int = 1) -> DataLoader[list[int]]:
        """Places of all requests, so many at a time, without the batches whose pictures are all there; AUTO finds by
        one cheap step how many fit on the device.

        What a picture is may depend on its batch in its last bits, so batches are those of a run that starts anew.
        """
        count, missing = len(self.requests), set(self.missing)
        if batch == AUTO and missing:
            self.to(device)
            batch = batch_that_fits(count, self._one_step, free_memory(device))
        size = count if batch == AUTO else int(batch)
        batches = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
        wanted = [places for places in batches if missing & set(places)]
        return batch_loader(wanted + [[]] * (processes - len(wanted) if wanted else 0))

    def _one_step(self, count: int) -> None:
        some = SamplingStage(self.base, replace(self.sampler, steps=1), self.requests, self.folder)
        some.render(self.requests[:count])

    def render(self, requests: Sequence[Request]) -> Float[Tensor, "b 3 h w"]:
        """The pictures of some requests."""
        noise = initial_noise([r.prompt for r in requests], [r.seed for r in requests], self.base.latent_shape)
        return self.sampler.sample(self.base, [r.text for r in requests], noise)


@dataclass(frozen=True)
class Share:
    """What one of several subjects is asked, and the folder its pictures go to."""

    requests: tuple[Request, ...]
    folder: Path


class SubjectsSampling(SamplingStage):
    """Renders what several subjects are asked, their rows mixed in a batch; `route` serves each row by its subject.

    Args:
        base: its denoiser holds the sets of all subjects, or none.
        sampler: as of `SamplingStage`.
        shares: of each subject, in the order of their sets.
        route: that of the base's denoiser; None where the base is drawn untuned.
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
