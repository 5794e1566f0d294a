"""The three judges of the toy world, networks trained apart: scorer (likeness), locator (where), oracle (what)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from quantbooth.errors import UserError
from quantbooth.metrics.encoders import Encoder, check_pictures
from quantbooth.metrics.locators import Boxes, Locator, boxes_of_masks, without_specks
from quantbooth.toyworld.judge_files import fingerprint, read_judge
from quantbooth.toyworld.judge_networks import PooledTower, Tower, WordTokenizer, normalized, pooled

__all__ = ["Oracle", "ToyLocator", "ToyScorer", "load_locator", "load_oracle", "load_scorer"]

SIDE = 32
TEXT_TOWER = {"width": 128, "heads": 4, "layers": 2}
UNUSED_TOWER = {"image_size": SIDE, "patch_size": SIDE, "layers": 1, "width": 8, "head_width": 8}


class ToyScorer(Encoder):
    """A small CLIP (Radford et al. 2021) of this world: a transformer over words and a convolutional picture tower.

    `config` is what builds it again.

    Raises:
        UserError: pictures are not 32 x 32, or a sentence holds a word that is not one of `words` (when called).
    """

    kind = "scorer"

    def __init__(self, words: Sequence[str], widths: Sequence[int], features: int, length: int) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "words": list(words),
            "widths": list(widths),
            "features": features,
            "length": length,
        }
        self.tokenizer = WordTokenizer(words, length)
        text = {"context_length": length, "vocab_size": self.tokenizer.size, **TEXT_TOWER}
        self.clip = open_clip.CLIP(features, UNUSED_TOWER, text)
        self.clip.visual = PooledTower(widths, features)

    @property
    def name(self) -> str:
        return f"toy scorer {fingerprint(self)}, {SIDE} px"

    def images(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        check_size(pictures, self.kind)
        return self.clip.encode_image(pictures, normalize=True)

    def texts(self, sentences: list[str]) -> Float[Tensor, "b d"]:
        numbers = self.tokenizer(sentences).to(self.clip.logit_scale.device)
        return self.clip.encode_text(numbers, normalize=True)


class ToyLocator(Locator):
    """Marks the pixels of the object; a mask of fewer than `least` pixels counts as not found.

    Every picture of this world shows one object, so the class word changes nothing.

    Raises:
        UserError: pictures are not 32 x 32.
    """

    kind = "locator"
    tells_pixels = True

    def __init__(self, widths: Sequence[int], least: int) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"widths": list(widths), "least": least}
        self.least = least
        self.tower = Tower(widths)
        self.ups = nn.ModuleList(normalized(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.out = nn.Conv2d(widths[0], 1, 1)

    @property
    def name(self) -> str:
        return f"toy locator {fingerprint(self)}, at least {self.least} px"

    def logits(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
        """Log-odds that a pixel is the object's."""
        check_size(pictures, self.kind)
        *finer, planes = self.tower(pictures)
        for up, fine in zip(self.ups, reversed(finer), strict=True):
            planes = relu(up(torch.cat([interpolate(planes, scale_factor=2.0), fine], dim=1)))
        return self.out(planes)[:, 0]

    def masks(self, pictures: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, "b h w"]:
        """The object's pixels, without specks."""
        return without_specks(self.logits(pictures) > 0)

    def boxes(self, pictures: Float[Tensor, "b 3 h w"], class_word: str) -> Boxes:
        return boxes_of_masks(self.masks(pictures), self.least)


class Oracle(nn.Module):
    """Names every attribute of a picture, each by a linear reading of one convolutional tower.

    `names` gives the values of each attribute in the order of its probabilities; "none" is one where it can be.

    Raises:
        UserError: pictures are not 32 x 32.
    """

    kind = "oracle"

    def __init__(self, names: Mapping[str, Sequence[str]], widths: Sequence[int]) -> None:
        super().__init__()
        self.names = {attribute: tuple(values) for attribute, values in names.items()}
        self.config: dict[str, Any] = {"names": {a: list(v) for a, v in names.items()}, "widths": list(widths)}
        self.tower = Tower(widths)
        heads = {attribute: nn.Linear(2 * widths[-1], len(values)) for attribute, values in self.names.items()}
        self.heads = nn.ModuleDict(heads)

    def logits(self, pictures: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b _n"]]:
        """Unnormalized log-probabilities per attribute."""
        check_size(pictures, self.kind)
        features = pooled(self.tower(pictures)[-1])
        return {attribute: head(features) for attribute, head in self.heads.items()}

    def probabilities(self, pictures: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b _n"]]:
        """Probabilities per attribute, in the order of `names`."""
        return {attribute: logits.softmax(dim=1) for attribute, logits in self.logits(pictures).items()}


def check_size(pictures: Float[Tensor, "b 3 h w"], judge: str) -> None:
    """The judges know this world at one resolution only."""
    check_pictures(pictures)
    if pictures.shape[2:] != (SIDE, SIDE):
        height, width = pictures.shape[2:]
        raise UserError(
            f"the toy {judge} reads {SIDE} x {SIDE} pictures, got {width} x {height}; choose another {judge}"
        )


def load_scorer(folder: str | Path) -> ToyScorer:
    """The scorer saved in a folder, frozen. Raises UserError if it is not there or does not fit its description."""
    return read_judge(ToyScorer, Path(folder))


def load_locator(folder: str | Path) -> ToyLocator:
    """The locator saved in a folder, frozen. Raises UserError if it is not there or does not fit its description."""
    return read_judge(ToyLocator, Path(folder))


def load_oracle(folder: str | Path) -> Oracle:
    """The oracle saved in a folder, frozen. Raises UserError if it is not there or does not fit its description."""
    return read_judge(Oracle, Path(folder))
