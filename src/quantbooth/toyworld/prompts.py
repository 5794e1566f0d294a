"""The 25 evaluation prompts of a subject, what each asks for, and what it leaves of the subject as it was."""

from dataclasses import dataclass, field

from quantbooth.toyworld.cast import ToySubject
from quantbooth.toyworld.world import ACCESSORIES, COLOURS, CONTEXTS, PATTERNS

KINDS = ("context", "accessory", "property", "plain")
COLOUR_EDITS = 5
PATTERN_EDITS = 2
FREED_BY = {"colour": ("colour",), "pattern": ("pattern", "second", "emblem")}


@dataclass(frozen=True)
class ToyPrompt:
    """A sentence with `{}` where identifier and class word go, and the attributes it asks for by name."""

    template: str
    kind: str
    asked: dict[str, str] = field(hash=False)

    def text(self, subject_words: str) -> str:
        """The sentence about `subject_words`, such as "sks mug" or "mug"."""
        return self.template.format(subject_words)


def prompts(subject: ToySubject) -> list[ToyPrompt]:
    """Ten contexts, six accessories (three in a context), five colours, two patterns, two of the class alone."""
    return [*_contexts(), *_accessories(subject), *_edits(subject), *_class_only()]


def untouched(subject: ToySubject, prompt: ToyPrompt) -> dict[str, str]:
    """The subject's own attributes that a prompt leaves as they are.

    A colour edit frees the body colour. A pattern edit frees the pattern, the second colour and the emblem, since this
    world never puts an emblem over a captioned pattern. Contexts and accessories free nothing.
    """
    freed = {name for asked in prompt.asked for name in FREED_BY.get(asked, ())}
    own = ("class_word", "colour", "second", "pattern", "emblem")
    return {name: getattr(subject, name) for name in own if name not in freed}


def article(word: str) -> str:
    """The word (or phrase) after "a" or "an"."""
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
