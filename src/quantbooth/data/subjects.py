"""A subject: what is to be personalized, the pictures that show it, and the sentences it will be asked in."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Bool, Float
from torch import Tensor

from quantbooth.runtime.errors import UserError

__all__ = ["Prompt", "Subject"]


@dataclass(frozen=True)
class Prompt:
    """One sentence to judge a tuned model by.

    Attributes:
        template: holds ``{}`` where "identifier class" goes.
        kind: context, accessory, property or plain.
        asked: attributes the sentence asks for, where the world can tell (toy world only).
        own: the subject's attributes it leaves as they are, where the world can tell.
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
        identifier: the rare token that comes to mean it ("sks").
        photos: the pictures to tune on, in [0, 1].
        references: the pictures that fidelity is measured against; the photos themselves where there are no others.
        reference_masks: where in each reference the subject is; local CLIP-I then cuts it out there, and its locator
            finds it in the generated pictures only.
        prompts: what to ask for.
        fingerprint: changes when any of the pictures or sentences does.
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
        for prompt in self.prompts:
            if prompt.template.count("{}") != 1:
                raise UserError(f"a prompt must hold {{}} once, where the subject goes, got {prompt.template!r}")

    @property
    def shown_as(self) -> str:
        """Identifier and class word, as they stand in sentences."""
        return f"{self.identifier} {self.class_word}"

    @property
    def tuning_text(self) -> str:
        """The sentence beside each photo in tuning, as in DreamBooth."""
        return f"a photo of a {self.shown_as}"

    @property
    def class_text(self) -> str:
        """The sentence of the class pictures that preserve the prior."""
        return f"a photo of a {self.class_word}"

    def asked_text(self, prompt: Prompt) -> str:
        """The sentence that a tuned model is given."""
        return prompt.template.replace("{}", self.shown_as)

    def judged_text(self, prompt: Prompt) -> str:
        """The sentence that CLIP-T compares with: without the identifier, which no encoder knows."""
        return prompt.template.replace("{}", self.class_word)
