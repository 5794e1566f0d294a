"""Image sets on disk: one PNG per picture, and a list of their prompts and noise seeds."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from quantbooth.data.pictures import opened
from quantbooth.data.questions import Questions
from quantbooth.data.subjects import Prompt, Subject
from quantbooth.runtime.errors import UserError
from quantbooth.store.documents import read_as
from quantbooth.store.files import require_name

__all__ = [
    "UNRELATED",
    "Request",
    "prompts_of",
    "read_images",
    "read_requests",
    "requests_for",
    "unrelated_requests",
    "write_image",
    "write_requests",
]

LIST = "images.json"
UNRELATED = "unrelated"
"""The kind of prompts that do not mention the subject: their scores measure drift."""


@dataclass(frozen=True)
class Request:
    """One picture to generate, and what it is scored against.

    Attributes:
        file: its name in the image set.
        text: the prompt for the model.
        judged_text: the prompt for CLIP-T.
        prompt: the template, to group by.
        kind: context, accessory, property, plain, prior, or UNRELATED.
        seed: decides the noise, with the template; the same for every method and subject of a class.
        asked: requested attributes, where an oracle can see them.
        own: unchanged attributes of the subject, where an oracle can see them.
    """

    file: str
    text: str
    judged_text: str
    prompt: str
    kind: str
    seed: int
    asked: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, str] = field(default_factory=dict)


def requests_for(subject: Subject, seeds: Sequence[int], every: int = 1) -> list[Request]:
    """Return every prompt (or every n-th) of a subject with every seed."""
    chosen: list[tuple[int, Prompt]] = list(enumerate(subject.prompts))[::every]
    return [
        Request(
            file=f"{number:03d}-{seed}.png",
            text=subject.asked_text(prompt),
            judged_text=subject.judged_text(prompt),
            prompt=prompt.template,
            kind=prompt.kind,
            seed=seed,
            asked=dict(prompt.asked),
            own=dict(prompt.own),
        )
        for number, prompt in chosen
        for seed in seeds
    ]


def unrelated_requests(questions: Questions, subject: Subject, count: int, seed: int) -> list[Request]:
    """Return the first prompts without the subject's class or identifier, all with one noise seed.

    Raises:
        UserError: when there are too few.
    """
    own = re.compile(rf"\b(?:{re.escape(subject.class_word)}s?|{re.escape(subject.identifier)})\b", re.IGNORECASE)
    texts = list(dict.fromkeys(one.text for one in questions.each if not own.search(one.text)))[:count]
    if len(texts) < count:
        raise UserError(
            f"protocol.prior_prompts={count} needs as many prompts of base.held_out without {subject.class_word}, "
            f"found {len(texts)}; take fewer, or 0"
        )
    return [
        Request(f"unrelated-{number:03d}-{seed}.png", text, text, text, UNRELATED, seed)
        for number, text in enumerate(texts)
    ]


def prompts_of(requests: Sequence[Request], negative_prompt: str = "", rewarded: bool = False) -> list[str]:
    """Return all prompts that the pictures of some requests need, with that of the unconditional prediction.

    With reward guidance they are also those without the identifier.
    """
    plain = [request.judged_text for request in requests] if rewarded else []
    return [negative_prompt, *(request.text for request in requests), *plain]


def write_requests(folder: Path, requests: Sequence[Request]) -> None:
    (folder / LIST).write_text(json.dumps([asdict(request) for request in requests], indent=1))


def read_requests(folder: Path) -> list[Request]:
    """Return the requests of an image set.

    Raises:
        UserError: when its list is damaged, names a file out of the folder, or one twice.
    """
    requests = read_as(list[Request], folder / LIST)
    names = [require_name(one.file, f"{folder / LIST}: file") for one in requests]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{folder / LIST} must name each file once, found {twice[0]} twice")
    return requests


def write_image(path: Path, image: Float[Tensor, "3 h w"]) -> None:
    """Write an image in [0, 1] as 8-bit PNG, atomically."""
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    draft = path.with_name(f".{os.getpid()}.{path.name}")
    Image.fromarray(pixels).save(draft)
    draft.rename(path)


def read_images(paths: Sequence[Path]) -> Float[Tensor, "n 3 h w"]:
    """Read pictures of one size as one batch in [0, 1].

    Raises:
        UserError: when one cannot be read, or has another size than the first.
    """
    pixels = [_pixels(path) for path in paths]
    for path, picture in zip(paths, pixels, strict=True):
        if picture.shape != pixels[0].shape:
            expected, found = ("x".join(map(str, one.shape[1::-1])) for one in (pixels[0], picture))
            raise UserError(f"the picture {path} must have {expected} pixels, as {paths[0].name} has, found {found}")
    return torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2) / 255)


def _pixels(path: Path) -> Float[np.ndarray, "h w 3"]:
    with opened(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.float32)
