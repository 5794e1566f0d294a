"""Sampling under Lightning's predict loop: requests in, one PNG each out, as many at a time as fit.

How many pictures fit into memory at a time: found by drawing, with ever more of them, one step each.

Sampling under Lightning's predict loop: drawings in, one PNG each out.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from quantbooth.data.protocol import AUTO
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.router import SubjectsRoute
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.runtime.draws import batch_loader, batches
from quantbooth.runtime.profiling import profile
from quantbooth.sampling.image_set import Request, write_image

__all__ = ["ImageJob", "SamplingModule", "batch_that_fits", "image_jobs", "free_memory"]

SHARE = 0.8
"""Of the free memory that may be taken: allocators keep more than they need."""
LOG = logging.getLogger(__name__)


def free_memory(device: torch.device) -> int:
    """Bytes that are free where pictures are drawn."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def batch_that_fits(most: int, draw: Callable[[int], object], free: int) -> int:
    """The largest power of two of pictures, or `most`, that should fit.

    A batch of 1 is drawn, then 2, 4 and so on. With p_n the peak of n pictures, p_2n = p_n + 2 (p_n - p_(n/2)) is what
    the next should take; where that is too much the search ends.

    Args:
        most: pictures that are wanted.
        draw: draws so many in a cheap way, with as much memory as drawing them well takes.
        free: bytes, as `free_memory` says before.
    """
    room = _peak(lambda _: None, 0) + SHARE * free
    size, last, peak = 1, None, _peak(draw, 1)
    while size < most:
        expected = peak if last is None else peak + 2 * (peak - last)
        if expected > room:
            break
        larger = min(2 * size, most)
        try:
            last, peak = peak, _peak(draw, larger)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if peak > room:
            break
        size = larger
    LOG.info("%d pictures at a time", size)
    return size


def _peak(draw: Callable[[int], object], count: int) -> int:
    with profile() as cost:
        draw(count)
    return cost.peak_memory_bytes


@dataclass(frozen=True)
class ImageJob:
    """One picture to draw: what is asked, where it goes, and whose sets serve it (0 is the first subject)."""

    request: Request
    path: Path
    subject: int = 0


def image_jobs(requests: Sequence[Request], folder: Path, subject: int = 0) -> list[ImageJob]:
    """Return what is asked of one subject, each picture in the folder."""
    return [ImageJob(request, folder / request.file, subject) for request in requests]


class SamplingModule(LightningModule):
    """Renders drawings in batches; the noise of each comes from its template and seed alone, not from its batch.

    Args:
        base: its denoiser holds the sets of all subjects, or none.
        sampler: draws.
        drawings: of one subject or several, whose rows are mixed in a batch.
        route: that of the base's denoiser, told whose row is whose; None where the base is drawn untuned.
    """

    def __init__(
        self, base: Base, sampler: Sampler, image_jobs: Sequence[ImageJob], route: SubjectsRoute | None = None
    ) -> None:
        super().__init__()
        self.base = base
        self.parts = base.networks  # so that all move together
        self.sampler = sampler
        self.jobs = tuple(image_jobs)
        self.route = route

    def on_predict_start(self) -> None:
        """A forked process cannot use the threads of the one it was forked from."""
        if self.trainer.world_size > 1:
            torch.set_num_threads(1)

    def predict_step(self, places: list[int]) -> int:
        if not places:  # there are fewer batches than processes
            return 0
        chosen = [self.jobs[place] for place in places]
        for job, image in zip(chosen, self.render(chosen), strict=True):
            write_image(job.path, image)
        return len(chosen)

    @property
    def missing(self) -> list[int]:
        """Places of the drawings whose pictures are not where they go."""
        return [place for place, job in enumerate(self.jobs) if not job.path.is_file()]

    def loader(self, batch: int | str, device: torch.device, processes: int = 1) -> DataLoader[list[int]]:
        """Places of all drawings, so many at a time, without the batches whose pictures are all there; AUTO finds by
        one cheap step how many fit on the device.

        What a picture is may depend on its batch in its last bits, so batches are those of a run that starts anew.
        """
        count, missing = len(self.jobs), set(self.missing)
        if batch == AUTO and missing:
            self.to(device)
            batch = batch_that_fits(count, self._one_step, free_memory(device))
        size = count if batch == AUTO else int(batch)
        wanted = [places for places in batches(count, size) if missing & set(places)]
        return batch_loader(wanted + [[]] * (processes - len(wanted) if wanted else 0))

    def _one_step(self, count: int) -> None:
        some = SamplingModule(self.base, replace(self.sampler, steps=1), self.jobs[:count], self.route)
        some.render(some.jobs)

    def render(self, image_jobs: Sequence[ImageJob]) -> Float[Tensor, "b 3 h w"]:
        """The pictures of some drawings."""
        if self.route is not None:
            self.route.choose(torch.tensor([job.subject for job in image_jobs]))
        requests = [job.request for job in image_jobs]
        noise = initial_noise([r.prompt for r in requests], [r.seed for r in requests], self.base.latent_shape)
        return self.sampler.sample(self.base, [r.text for r in requests], noise)
