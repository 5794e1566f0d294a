"""Prompts: DreamBooth's 25 evaluation prompts for objects and 25 for live subjects, and prompts of the user.

Source: Ruiz et al. 2023; github.com/google/dreambooth, CC-BY 4.0.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from quantbooth.data.subjects import Prompt

__all__ = ["PromptJob", "as_read", "expand_prompts", "prompts_for"]

SHARED_SCENES = (
    "a {} in the jungle",
    "a {} in the snow",
    "a {} on the beach",
    "a {} on a cobblestone street",
    "a {} on top of pink fabric",
    "a {} on top of a wooden floor",
    "a {} with a city in the background",
    "a {} with a mountain in the background",
    "a {} with a blue house in the background",
    "a {} on top of a purple rug in a forest",
)
OBJECT_SCENES = (
    "a {} with a wheat field in the background",
    "a {} with a tree and autumn leaves in the background",
    "a {} with the Eiffel Tower in the background",
    "a {} floating on top of water",
    "a {} floating in an ocean of milk",
    "a {} on top of green grass with sunflowers around it",
    "a {} on top of a mirror",
    "a {} on top of the sidewalk in a crowded street",
    "a {} on top of a dirt road",
    "a {} on top of a white rug",
)
LIVE_OUTFITS = (
    "a {} wearing a red hat",
    "a {} wearing a santa hat",
    "a {} wearing a rainbow scarf",
    "a {} wearing a black top hat and a monocle",
    "a {} in a chef outfit",
    "a {} in a firefighter outfit",
    "a {} in a police outfit",
    "a {} wearing pink glasses",
    "a {} wearing a yellow shirt",
    "a {} in a purple wizard outfit",
)
PROPERTIES = ("a red {}", "a purple {}", "a shiny {}", "a wet {}", "a cube shaped {}")


def prompts_for(live: bool) -> tuple[Prompt, ...]:
    """Return DreamBooth's prompts for live subjects or for objects."""
    middle, kind = (LIVE_OUTFITS, "accessory") if live else (OBJECT_SCENES, "context")
    return (
        *(Prompt(text, "context") for text in SHARED_SCENES),
        *(Prompt(text, kind) for text in middle),
        *(Prompt(text, "property") for text in PROPERTIES),
    )


def as_read(text: str) -> str:
    """Return a prompt as CLIP's tokenizer reads it: composed letters, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


LETTERS = 48
"""Letters of a prompt in a file's name."""


@dataclass(frozen=True)
class PromptJob:
    """One picture to generate.

    Attributes:
        text: the prompt.
        seed: decides the noise, with the prompt.
        file: the picture's file name: the shortened prompt, the seed, and a digest of all that decides the picture.
    """

    text: str
    seed: int
    file: str


def expand_prompts(
    sentences: str | Sequence[str], seeds: Sequence[int], subject: str, drawn_by: str
) -> list[PromptJob]:
    """Return a request for every prompt with every seed.

    Args:
        sentences: one prompt or a list; `{}` in it becomes the subject.
        seeds: of the noise.
        subject: identifier and class word, as in "sks dog".
        drawn_by: everything else that decides pictures, as any text.
    """
    given = [sentences] if isinstance(sentences, str) else sentences
    texts = [text.replace("{}", subject) for text in given]
    return [PromptJob(text, seed, _file(text, seed, drawn_by)) for text in dict.fromkeys(texts) for seed in seeds]


def _file(text: str, seed: int, drawn_by: str) -> str:
    short = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:LETTERS].rstrip("-") or "picture"
    digest = hashlib.sha256(f"{text}\n{seed}\n{drawn_by}".encode()).hexdigest()[:6]
    return f"{short}-seed{seed}-{digest}.png"
