"""The examples of a training: latents and prompts of its subjects, encoded before the denoiser is read."""

from collections.abc import Sequence

import torch

from quantbooth.data.subjects import Subject
from quantbooth.diffusion.base import Base
from quantbooth.run.models import base_for_encoding
from quantbooth.run.run import Run
from quantbooth.run.stopping import guard_texts
from quantbooth.run.subject_run import SubjectRun
from quantbooth.sampling.image_set import Request, prompts_of, read_images, read_requests, requests_for
from quantbooth.tuning.encoding import LazyLatents, cache_latents
from quantbooth.tuning.recipe import Examples

__all__ = ["encode", "encode_examples", "preview_requests", "texts_of"]


def encode_examples(run: Run, subjects: Sequence[SubjectRun]) -> tuple[Base, list[Examples]]:
    """Return latents and prompts of a run, and the base without its denoiser, with what is needed beside it.

    Text encoders are freed before pictures are encoded, and the autoencoder before the denoiser is read: the peak is
    that of training. A learned identifier keeps them, since it changes the text encoder.
    """
    learns_words = bool(run.settings["tuner"]["identifier"])
    texts = [text for one in subjects for text in texts_of(one)]
    base = base_for_encoding(run, None if learns_words else texts)
    examples = [encode(one, base) for one in subjects]
    keeps = learns_words or not run.settings["resources"]["cache_latents"]
    return base if keeps else base.denoiser_alone, examples


def texts_of(one: SubjectRun) -> list[str]:
    """Return all prompts that the tuning of a subject, its previews and its guard encode."""
    subject, prompts = one.subject, one.class_prompts if one.run.recipe.class_batch_size else []
    drawn = prompts_of(preview_requests(subject))
    return [subject.tuning_text, subject.class_text, *prompts, *drawn, *guard_texts(one)]


def encode(one: SubjectRun, base: Base) -> Examples:
    """Return latents and prompts of a run; without resources.cache_latents each step encodes its pictures."""
    run, subject = one.run, one.subject
    photos, prior = subject.photos, subject.photos[:0]
    prompts, rows = one.class_prompts if run.recipe.class_batch_size else [], None
    if run.recipe.class_batch_size and not run.recipe.makes_class_pictures:
        prior = photos
    elif run.recipe.class_batch_size:
        folder = one.prior.require()
        requests = read_requests(folder)
        prior = read_images([folder / request.file for request in requests])
        rows = torch.tensor([prompts.index(request.text) for request in requests])
    with torch.no_grad():
        texts = base.encode_prompts([subject.tuning_text, subject.class_text])
        several = base.encode_prompts(list(prompts)) if len(prompts) > 1 else None
    if run.settings["tuner"]["random_flip"]:
        photos, prior = (torch.cat([pictures, pictures.flip(-1)]) for pictures in (photos, prior))
        rows = None if rows is None else torch.cat([rows, rows])
    made = [LazyLatents(base.encode_images, pictures) for pictures in (photos, prior)]
    kept = [cache_latents(latents) for latents in made] if run.settings["resources"]["cache_latents"] else made
    return Examples(kept[0], texts[:1], kept[1], texts[1:], subject.name, several, rows)


def preview_requests(subject: Subject) -> list[Request]:
    """Return eight prompts of all kinds, for previews during tuning."""
    return requests_for(subject, [0], max(1, len(subject.prompts) // 8))[:8]
