"""A subject of personalization: its photos, its identifier and class word, and its evaluation prompts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Bool, Float
from torch import Tensor

from quantbooth.runtime.errors import UserError

__all__ = ["Prompt", "Subject"]


@dataclass(frozen=True)
class Prompt:
    """One evaluation prompt.

    Attributes:
        template: has ``{}`` for "identifier class".
        kind: context, accessory, property or plain.
        asked: attributes that the prompt asks for; toy world only.
        own: the subject's attributes that the prompt does not change; toy world only.
    """

    template: str
    kind: str
    asked: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """A subject with its photos.

    Attributes:
        name: its name in tables.
        class_word: the class it belongs to ("dog").
        identifier: the rare token that denotes it after tuning ("sks").
        photos: the pictures to tune on, in [0, 1].
        references: the pictures that fidelity is measured against; the photos themselves where there are no others.
        reference_masks: the subject's mask in each reference; local CLIP-I then crops the references by them, and uses
            its locator on generated pictures only.
        prompts: the evaluation prompts.
        fingerprint: a digest that changes with any picture or prompt.
    """

    name: str
    class_word: str
    identifier: str
    photos: Float[Tensor, "n 3 h w"]
    references: Float[Tensor, "m 3 h w"]
    prompts: tuple[Prompt, ...]
    fingerprint: str
    reference_masks: Bool[Tensor, "m h w"] | None = None

    def __post_init__(self) -> None:
        if not len(self.photos):
            raise UserError(f"subject {self.name!r} has no photos; give 3 to 6 of them")
        if self.reference_masks is not None and self.reference_masks.shape != self.references[:, 0].shape:
            expected, found = list(self.references[:, 0].shape), list(self.reference_masks.shape)
            raise ValueError(f"masks must be as many and as large as the references, {expected}, got {found}")
        for text in (self.name, self.class_word, self.identifier, *(prompt.template for prompt in self.prompts)):
            if not text.isprintable():
                raise UserError(f"names and prompts of a subject must be printable in one line, got {text!r}")
        for prompt in self.prompts:
            if prompt.template.count("{}") != 1:
                raise UserError(f"a prompt must hold {{}} once, where the subject goes, got {prompt.template!r}")

    @property
    def shown_as(self) -> str:
        """Identifier and class word, as in prompts."""
        return f"{self.identifier} {self.class_word}"

    @property
    def tuning_text(self) -> str:
        """The instance prompt: the prompt of the photos in training, as in DreamBooth."""
        return f"a photo of a {self.shown_as}"

    @property
    def class_text(self) -> str:
        """The class prompt: the prompt of the class pictures for prior preservation."""
        return f"a photo of a {self.class_word}"

    @property
    def texts(self) -> tuple[str, ...]:
        """Every sentence that a base reads of it."""
        return (self.tuning_text, self.class_text, *map(self.asked_text, self.prompts))

    def asked_text(self, prompt: Prompt) -> str:
        """Return the prompt for a tuned model, with identifier and class word."""
        return prompt.template.replace("{}", self.shown_as)

    def judged_text(self, prompt: Prompt) -> str:
        """Return the prompt for CLIP-T, without the identifier, which CLIP does not know."""
        return prompt.template.replace("{}", self.class_word)
