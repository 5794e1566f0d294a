"""The scorer: the judges of comparable scores, and a description of each metric."""

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantbooth.evaluation.encoders import Encoder, ImageEncoder
from quantbooth.evaluation.locators import Locator
from quantbooth.runtime.errors import UserError
from quantbooth.store.files import weights_fingerprint

__all__ = ["Oracle", "Probabilities", "Scorer"]

Probabilities = dict[str, Float[Tensor, "b _n"]]


@runtime_checkable
class Oracle(Protocol):
    """A classifier that knows the attributes of a synthetic world."""

    names: dict[str, tuple[str, ...]]

    def probabilities(self, pictures: Float[Tensor, "b 3 h w"]) -> Probabilities: ...


class Scorer:
    """An encoder, a locator, and optionally an oracle and DINO; one table has the scores of one scorer.

    Args:
        dino: an image encoder, for separate columns.
        mask_background: paint the background of the subject's region grey before regions are compared.

    Raises:
        UserError: for a plain mapping in place of a judge; when the background is masked and the locator has no masks.
    """

    def __init__(
        self,
        encoder: Encoder,
        locator: Locator,
        oracle: Oracle | None = None,
        dino: ImageEncoder | None = None,
        mask_background: bool = False,
    ) -> None:
        judges = {"encoder": encoder, "locator": locator, "oracle": oracle, "dino": dino}
        for name, judge in judges.items():
            if isinstance(judge, dict):  # what configs make of a group without _target_
                raise UserError(f"scorer.{name} must be one of the choices of its group, got {judge}")
        if mask_background and not locator.tells_pixels:
            raise UserError(
                f"scorer.mask_background=true needs a locator with masks, {locator.name} has none; "
                "choose toy, clipseg or attention"
            )
        self.encoder = encoder
        self.locator = locator
        self.oracle = oracle
        self.dino = dino
        self.background = not mask_background

    @property
    def judges(self) -> list[nn.Module]:
        """The networks, as submodules that move along with a module."""
        found = (self.encoder, self.locator, self.oracle, self.dino)
        return [judge for judge in found if isinstance(judge, nn.Module)]

    @torch.no_grad()
    def check(
        self,
        picture: Float[Tensor, "1 3 h w"],
        texts: list[str],
        class_word: str | None,
        values: Iterable[Mapping[str, str]],
    ) -> None:
        """Judge one picture with all prompts, before any work.

        Args:
            picture: of the size that pictures have.
            texts: prompts that pictures are compared with.
            class_word: of the subject that is located; None where none is.
            values: attributes that the oracle is asked for.

        Raises:
            UserError: for a picture, a text, a class word or a value that a judge cannot read.
        """
        self.encoder.texts(texts)
        for encoder in (self.encoder, self.dino):
            if encoder is not None:
                encoder.images(picture)
        if class_word is not None:
            self.locator.boxes(picture, class_word)
        if self.oracle is None:
            return
        self.oracle.probabilities(picture)
        for asked in (*([] if class_word is None else [{"class_word": class_word}]), *values):
            for attribute, value in asked.items():
                if value not in (known := self.oracle.names.get(attribute, ())):
                    raise UserError(
                        f"scorer.oracle knows no {attribute} {value!r}, but {', '.join(known) or 'none'}; "
                        "choose scorer.oracle=null"
                    )

    @property
    def name(self) -> str:
        """Encoder, locator, oracle and DINO with their weights; scores with different names are never compared."""
        parts = [self.encoder.name, self._located, self._oracle, self.dino.name if self.dino else ""]
        return " | ".join(part for part in parts if part)

    @property
    def measured_with(self) -> dict[str, str]:
        """Judges and comparison, by metric."""
        encoder, region = self.encoder.name, f"regions by {self._located}"
        found = {
            "clip_t": f"{encoder}: picture with prompt, the class word alone for the subject",
            "clip_i": f"{encoder}: picture with each reference, averaged",
            "local_clip_i": f"{encoder}: the same on {region}",
            "subject_found": self._located,
            "diversity": f"{encoder}: 1 - mean cosine with the prompt's pictures of other seeds",
            "prior_kept": f"{encoder}: picture with the untuned base's of the same noise, prompts of other subjects",
        }
        if self.dino is not None:
            found["dino"] = f"{self.dino.name}: picture with each reference, averaged"
            found["local_dino"] = f"{self.dino.name}: the same on {region}"
        if self.oracle is not None:
            found |= {f"oracle_{what}": self._oracle or "oracle" for what in ("subject", "prompt", "class")}
        return found

    @property
    def _located(self) -> str:
        return self.locator.name if self.background else f"{self.locator.name}, background grey"

    @property
    def _oracle(self) -> str:
        """The oracle's name; one that is not a network has no weights."""
        if isinstance(self.oracle, nn.Module):
            return f"toy oracle {weights_fingerprint(self.oracle)}"
        return ""
