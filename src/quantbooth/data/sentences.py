"""A person's own sentences: what to draw, with which noise, under which name."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from quantbooth.errors import UserError

__all__ = ["Wish", "wishes"]

LETTERS = 48
"""Of a sentence in a file's name."""


@dataclass(frozen=True)
class Wish:
    """One picture to draw.

    Attributes:
        text: the sentence.
        seed: with the sentence decides the noise.
        file: the picture's name: the sentence in short, the seed, and a digest of all that decides the picture.
    """

    text: str
    seed: int
    file: str


def wishes(sentences: object, seeds: Sequence[int], subject: str, drawn_by: str) -> list[Wish]:
    """Every sentence with every seed.

    Args:
        sentences: one, or a list; `{}` in it becomes the subject.
        seeds: of the noise.
        subject: identifier and class word, as in "sks dog".
        drawn_by: what else decides pictures, in any words.

    Raises:
        UserError: for what is no sentence.
    """
    given = [sentences] if isinstance(sentences, str) else sentences
    if not isinstance(given, Sequence) or not given:
        raise UserError(f'prompt must be a sentence or a list of them, got {sentences!r}; quote it: prompt="a dog"')
    for text in given:
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"prompt must hold sentences, got {text!r}; quote those with commas")
    texts = [text.replace("{}", subject) for text in given]
    return [Wish(text, seed, _file(text, seed, drawn_by)) for text in dict.fromkeys(texts) for seed in seeds]


def _file(text: str, seed: int, drawn_by: str) -> str:
    short = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:LETTERS].rstrip("-") or "picture"
    digest = hashlib.sha256(f"{text}\n{seed}\n{drawn_by}".encode()).hexdigest()[:6]
    return f"{short}-seed{seed}-{digest}.png"
