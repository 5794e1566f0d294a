"""Sampling in Lightning's predict loop: jobs in, one PNG per job out, and the largest batch that fits into memory."""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
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
from quantbooth.diffusion.sampler import Reward, Sampler, initial_noise
from quantbooth.runtime.draws import batch_loader, batches
from quantbooth.runtime.limits import is_out_of_memory
from quantbooth.runtime.profiling import profile
from quantbooth.sampling.image_set import Request, write_image

__all__ = ["ImageJob", "SamplingModule", "batch_that_fits", "image_jobs", "free_memory"]

SHARE = 0.8
"""Usable share of the free memory: allocators reserve more than they use."""
LOG = logging.getLogger(__name__)


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def batch_that_fits(most: int, draw: Callable[[int], object], free: int) -> int:
    """Return the largest power of two, or `most`, of pictures that should fit.

    Batches of 1, 2, 4, ... are tried. With p_n the peak of n pictures, p_2n = p_n + 2 (p_n - p_(n/2)) is the estimate
    for the next batch; the search ends when that is too much.

    Args:
        most: the number of pictures.
        draw: generates n pictures in fewer steps, with the memory of a full generation.
        free: bytes, from `free_memory`.
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
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
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
    """One picture to generate: its request, its path, and the subject whose sets are used (0 is the first)."""

    request: Request
    path: Path
    subject: int = 0


def image_jobs(requests: Sequence[Request], folder: Path, subject: int = 0) -> list[ImageJob]:
    """Return a job for each request of one subject, with paths in the folder."""
    return [ImageJob(request, folder / request.file, subject) for request in requests]


class SamplingModule(LightningModule):
    """Generates pictures in batches; the noise of each depends on its template and seed, not on its batch.

    Args:
        base: its denoiser has the sets of all subjects, or none.
        sampler: the sampler.
        image_jobs: of one or several subjects, whose rows are mixed in a batch.
        route: of the base's denoiser, which gets the subject of each row; None for an untuned base.
        negative_prompt: the prompt of the unconditional prediction of guidance.
        reward_guidance: the weight of reward guidance (see `Reward`); None is guidance by the tuned base alone.
    """

    def __init__(
        self,
        base: Base,
        sampler: Sampler,
        image_jobs: Sequence[ImageJob],
        route: SubjectsRoute | None = None,
        negative_prompt: str = "",
        reward_guidance: float | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self.parts = base.networks  # so that all move together
        self.sampler = sampler
        self.jobs = tuple(image_jobs)
        self.route = route
        self.negative_prompt = negative_prompt
        self.reward_guidance = reward_guidance

    def on_predict_start(self) -> None:
        """Use one thread: a forked process cannot use the threads of its parent."""
        if self.trainer.world_size > 1:
            torch.set_num_threads(1)

    def predict_step(self, indices: list[int]) -> int:
        if not indices:  # fewer batches than processes
            return 0
        chosen = [self.jobs[index] for index in indices]
        for job, image in zip(chosen, self.render(chosen).cpu(), strict=True):
            write_image(job.path, image)
        return len(chosen)

    @property
    def missing(self) -> list[int]:
        """Indices of the jobs whose pictures do not exist."""
        return [index for index, job in enumerate(self.jobs) if not job.path.is_file()]

    def loader(self, batch: int | str, device: torch.device, processes: int = 1) -> DataLoader[list[int]]:
        """Return a loader of job indices in batches, without complete batches; AUTO finds the largest batch that fits.

        The last bits of a picture may depend on its batch, so batches are those of a run from the start.
        """
        count, missing = len(self.jobs), set(self.missing)
        if batch == AUTO and missing:
            self.to(device)
            batch = batch_that_fits(count, self._one_step, free_memory(device))
        size = count if batch == AUTO else int(batch)
        wanted = [indices for indices in batches(count, size) if missing & set(indices)]
        return batch_loader(wanted + [[]] * (processes - len(wanted) if wanted else 0))

    def _one_step(self, count: int) -> None:
        shorter, prompt = replace(self.sampler, steps=1), self.negative_prompt
        some = SamplingModule(self.base, shorter, self.jobs[:count], self.route, prompt, self.reward_guidance)
        some.render(some.jobs)

    def render(self, image_jobs: Sequence[ImageJob]) -> Float[Tensor, "b 3 h w"]:
        """Return the pictures of some jobs."""
        if self.route is not None:
            self.route.choose(torch.tensor([job.subject for job in image_jobs]))
        drawing = nullcontext() if self.route is None else self.route.drawing()
        requests = [job.request for job in image_jobs]
        noise = initial_noise([r.prompt for r in requests], [r.seed for r in requests], self.base.latent_shape)
        texts = [r.text for r in requests]
        with drawing:
            return self.sampler.sample(self.base, texts, noise, self.negative_prompt, self._reward(requests))

    def _reward(self, requests: Sequence[Request]) -> Reward | None:
        if self.reward_guidance is None or self.route is None:  # an untuned base has no step to take
            return None
        return Reward(self.reward_guidance, [r.judged_text for r in requests], self.route.untuned)
