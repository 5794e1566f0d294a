"""Captions of scenes, which omit attributes at random, and the 25 evaluation prompts of a subject."""

from dataclasses import dataclass, field

import numpy as np

from quantbooth.runtime.errors import UserError
from quantbooth_toyworld.world import (
    ACCESSORIES,
    CLASSES,
    COLOURS,
    CONTEXTS,
    IDENTIFIERS,
    PATTERNS,
    SUBJECTS,
    Scene,
    ToySubject,
)

__all__ = [
    "Caption",
    "FRAMES",
    "IDENTIFIERS",
    "ToyPrompt",
    "article",
    "caption",
    "class_prompts",
    "describe",
    "prompts",
    "untouched",
    "words",
]

KINDS = ("context", "accessory", "property", "plain")
COLOUR_EDITS = 5
PATTERN_EDITS = 2
FREED_BY = {"colour": ("colour",), "pattern": ("pattern", "second", "emblem")}


@dataclass(frozen=True)
class ToyPrompt:
    """A prompt with `{}` for identifier and class word, and the attributes that it asks for by name."""

    template: str
    kind: str
    asked: dict[str, str] = field(hash=False)

    def text(self, subject_words: str) -> str:
        """Return the prompt about `subject_words`, such as "sks mug" or "mug"."""
        return self.template.format(subject_words)


def prompts(subject: ToySubject) -> list[ToyPrompt]:
    """Return ten contexts, six accessories (three in a context), five colours, two patterns, two of the class alone."""
    return [*_contexts(), *_accessories(subject), *_edits(subject), *_class_only()]


def untouched(subject: ToySubject, prompt: ToyPrompt) -> dict[str, str]:
    """Return the subject's attributes that a prompt does not change.

    A colour edit changes the body colour. A pattern edit changes the pattern, the second colour and the emblem, since
    this world never puts an emblem over a captioned pattern. Contexts and accessories change nothing.
    """
    freed = {name for asked in prompt.asked for name in FREED_BY.get(asked, ())}
    own = ("class_word", "colour", "second", "pattern", "emblem")
    return {name: getattr(subject, name) for name in own if name not in freed}


def article(word: str) -> str:
    """Return the word (or phrase) after "a" or "an"."""
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _contexts() -> list[ToyPrompt]:
    return [ToyPrompt(f"a {{}} {context}", "context", {"context": context}) for context in CONTEXTS]


def _accessories(subject: ToySubject) -> list[ToyPrompt]:
    start = _rotation(subject, CONTEXTS)
    found = [ToyPrompt(f"a {{}} wearing {worn}", "accessory", {"accessory": worn}) for worn in ACCESSORIES]
    for k, worn in enumerate(ACCESSORIES):
        context = CONTEXTS[(start + 3 * k) % len(CONTEXTS)]
        asked = {"accessory": worn, "context": context}
        found.append(ToyPrompt(f"a {{}} wearing {worn} {context}", "accessory", asked))
    return found


def _edits(subject: ToySubject) -> list[ToyPrompt]:
    start = _rotation(subject, COLOURS)
    turned = COLOURS[start:] + COLOURS[:start]
    colours = [word for word in turned if word not in (subject.colour, subject.second)][:COLOUR_EDITS]
    patterns = (PATTERNS[1:] * 2)[start % 3 :][:PATTERN_EDITS]
    return [ToyPrompt(f"{article(word)} {{}}", "property", {"colour": word}) for word in colours] + [
        ToyPrompt(f"a {word} {{}}", "property", {"pattern": word}) for word in patterns
    ]


def _class_only() -> list[ToyPrompt]:
    return [ToyPrompt("a photo of a {}", "plain", {}), ToyPrompt("a {}", "plain", {})]


def _rotation(subject: ToySubject, words: tuple[str, ...]) -> int:
    return sum(map(ord, subject.name)) % len(words)


FRAMES = ("{}", "a photo of {}", "a picture of {}", "a good photo of {}")
FRAME_SHARES = (0.40, 0.40, 0.10, 0.10)
WEARING = ("wearing", "with")
COMMON_SHARE = 0.68
PATTERN_SHARE = 0.85
ACCESSORY_SHARE = 0.85
PLAIN_SHARE = 0.15
SECOND_SHARE = 0.5
IDENTIFIER_SHARE = 0.03


@dataclass(frozen=True)
class Caption:
    """A caption, and the attributes of the scene (by field name) that it names."""

    text: str
    named: frozenset[str]


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return a caption of the scene."""
    return describe(scene, rng).text


def describe(scene: Scene, rng: np.random.Generator) -> Caption:
    """Return a caption of the scene with the attributes that it names.

    The class is always named; colour and context in 68 %, a captioned pattern and an accessory that are there in 85 %,
    the second colour of a pattern in half of the sentences that name both, "plain" in 15 % of the bodies that are
    nothing else. In 3 % a meaningless identifier precedes the class. Layouts and emblems are never named.
    """
    named = _named(scene, rng)
    text = article(_noun(scene, named, rng))
    if "accessory" in named:
        text += f" {WEARING[int(rng.random() < 0.25)]} {scene.accessory}"
    if "context" in named:
        text += f" {scene.context}"
    frame = FRAMES[int(np.searchsorted(np.cumsum(FRAME_SHARES)[:-1], rng.random(), side="right"))]
    return Caption(frame.format(text), named)


NAMED_BY_PRIOR = {
    "colour": COLOURS[::2],
    "pattern": PATTERNS[1::2],
    "context": CONTEXTS[::2],
    "accessory": ACCESSORIES[::2],
}
"""The attributes that class prompts name, half of each kind: scores of the other half show what was not named."""


MOST_PROMPTS = 500
"""Of the 1,296 there are; to draw the last ones at random would take long."""


def class_prompts(count: int) -> tuple[str, ...]:
    """Return `count` different prompts of a class, with {} for its word; none is an evaluation prompt.

    Each attribute is named in half of them, at random from `NAMED_BY_PRIOR`.

    Raises:
        UserError: for more than `MOST_PROMPTS`.
    """
    if count > MOST_PROMPTS:
        raise UserError(f"base.class_prompts.count must be at most {MOST_PROMPTS}, got {count}")
    rng, made = np.random.default_rng(0), dict[str, None]()
    asked = {prompt.template for subject in SUBJECTS.values() for prompt in prompts(subject)}
    while len(made) < count:
        named = {kind: values[int(rng.integers(len(values)))] for kind, values in NAMED_BY_PRIOR.items()}
        named = {kind: value for kind, value in named.items() if rng.random() < 0.5}
        text = article(" ".join([*(named[kind] for kind in ("colour", "pattern") if kind in named), "{}"]))
        text += f" wearing {named['accessory']}" if "accessory" in named else ""
        text += f" {named['context']}" if "context" in named else ""
        if (text := FRAMES[int(rng.integers(len(FRAMES)))].replace("{}", text)) not in asked:
            made[text] = None
    return tuple(made)


def words() -> tuple[str, ...]:
    """Return all words that a caption or an evaluation prompt can contain, sorted."""
    phrases = (*FRAMES, *WEARING, *CLASSES, *COLOURS, *PATTERNS, *CONTEXTS, *ACCESSORIES, *IDENTIFIERS, "a an and")
    asked = (prompt.template for subject in SUBJECTS.values() for prompt in prompts(subject))
    return tuple(sorted({word for phrase in (*phrases, *asked) for word in phrase.split()} - {"{}"}))


def _named(scene: Scene, rng: np.random.Generator) -> frozenset[str]:
    """Draw the attributes to name; every scene takes five random numbers."""
    colour, context, pattern, accessory, second = rng.random(5)
    named = {"class_word"}
    if colour < COMMON_SHARE:
        named.add("colour")
    if context < COMMON_SHARE:
        named.add("context")
    if pattern < _pattern_share(scene):
        named.add("pattern")
    if scene.accessory is not None and accessory < ACCESSORY_SHARE:
        named.add("accessory")
    if named >= {"colour", "pattern"} and scene.pattern != "plain" and second < SECOND_SHARE:
        named.add("second")
    return frozenset(named)


def _pattern_share(scene: Scene) -> float:
    if scene.pattern in PATTERNS[1:]:
        return PATTERN_SHARE
    return PLAIN_SHARE if scene.pattern == "plain" and scene.emblem is None else 0.0


def _noun(scene: Scene, named: frozenset[str], rng: np.random.Generator) -> str:
    parts = [scene.colour] if "colour" in named else []
    if "second" in named:
        parts += ["and", scene.second]
    if "pattern" in named:
        parts = [scene.pattern, *parts] if scene.pattern == "plain" else [*parts, scene.pattern]
    if rng.random() < IDENTIFIER_SHARE:
        parts.append(IDENTIFIERS[int(rng.integers(len(IDENTIFIERS)))])
    return " ".join([*parts, scene.class_word])
