"""The three judge networks of the toy world: scorer (a small CLIP), locator (segmentation), oracle (attributes)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from quantbooth.evaluation.encoders import Encoder, check_pictures
from quantbooth.evaluation.locators import Boxes, Locator, boxes_of_masks, without_specks
from quantbooth.runtime.errors import UserError
from quantbooth.store.files import weights_fingerprint
from quantbooth_toyworld.shipped import read_judge

__all__ = [
    "Oracle",
    "PooledTower",
    "Tower",
    "ToyLocator",
    "ToyScorer",
    "WordTokenizer",
    "load_locator",
    "load_oracle",
    "load_scorer",
    "normalized",
    "pooled",
]


def normalized(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    """Return a 3 x 3 convolution with batch normalization."""
    convolution = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside))


class Down(nn.Module):
    """A downsampling residual block: h = relu(halve(x)), y = relu(h + refine(h))."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.halve = normalized(inside, outside, stride=2)
        self.refine = normalized(outside, outside)

    def forward(self, planes: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        halved = relu(self.halve(planes))
        return relu(halved + self.refine(halved))


class Tower(nn.Module):
    """A convolutional tower from pictures in [0, 1] to planes at 32, 16, 8, ... pixels: one per width, finest first."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = normalized(3, widths[0])
        self.levels = nn.ModuleList(Down(a, b) for a, b in pairwise(widths))

    def forward(self, images: Float[Tensor, "b 3 32 32"]) -> list[Tensor]:
        planes = [relu(self.stem(2 * images - 1))]
        for level in self.levels:
            planes.append(level(planes[-1]))
        return planes


def pooled(planes: Float[Tensor, "b c h w"]) -> Float[Tensor, "b two_c"]:
    """Return mean and maximum over the picture: the amount of a feature, and its presence."""
    return torch.cat([planes.mean(dim=(2, 3)), planes.amax(dim=(2, 3))], dim=1)


class PooledTower(nn.Module):
    """A tower whose coarsest planes are pooled and projected: the picture side of the scorer."""

    def __init__(self, widths: Sequence[int], features: int) -> None:
        super().__init__()
        self.tower = Tower(widths)
        self.project = nn.Linear(2 * widths[-1], features, bias=False)

    def forward(self, images: Float[Tensor, "b 3 32 32"]) -> Float[Tensor, "b d"]:
        return self.project(pooled(self.tower(images)[-1]))


class WordTokenizer:
    """A word-level tokenizer; the end token has the highest id, since CLIP pools a text at its highest id.

    Raises:
        UserError: when called with a word that is not one of `words`, or a text that is too long.
    """

    def __init__(self, words: Sequence[str], length: int) -> None:
        self.words, self.length = tuple(words), length
        self.start, self.end = len(self.words) + 1, len(self.words) + 2
        self._numbers = {word: i for i, word in enumerate(self.words, start=1)}

    @property
    def size(self) -> int:
        """The number of ids: the words, padding (0), start and end."""
        return len(self.words) + 3

    def __call__(self, sentences: Sequence[str]) -> Int64[Tensor, "b length"]:
        return torch.tensor([self._row(sentence) for sentence in sentences], dtype=torch.long)

    def _row(self, sentence: str) -> list[int]:
        words = sentence.lower().split()
        unknown = [word for word in words if word not in self._numbers]
        if unknown:
            known = " ".join(self.words)
            raise UserError(f"the toy scorer has no word {unknown[0]!r} (in {sentence!r}); it knows {known}")
        if len(words) + 2 > self.length:
            raise UserError(f"the toy scorer reads at most {self.length - 2} words, got {len(words)} in {sentence!r}")
        row = [self.start, *(self._numbers[word] for word in words), self.end]
        return row + [0] * (self.length - len(row))


SIDE = 32
TEXT_TOWER = {"width": 128, "heads": 4, "layers": 2}
UNUSED_TOWER = {"image_size": SIDE, "patch_size": SIDE, "layers": 1, "width": 8, "head_width": 8}


class ToyScorer(Encoder):
    """A small CLIP (Radford et al. 2021) of this world: a transformer over words and a convolutional picture tower.

    `config` has its constructor arguments.

    Raises:
        UserError: when called with pictures that are not 32 x 32, or a text with a word that is not one of `words`.
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
        return f"toy scorer {weights_fingerprint(self)}, {SIDE} px"

    def images(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        check_size(pictures, self.kind)
        return self.clip.encode_image(pictures, normalize=True)

    def texts(self, sentences: list[str]) -> Float[Tensor, "b d"]:
        numbers = self.tokenizer(sentences).to(self.clip.logit_scale.device)
        return self.clip.encode_text(numbers, normalize=True)


class ToyLocator(Locator):
    """A segmentation network for the object; a mask of fewer than `least` pixels means not found.

    Every picture of this world shows one object, so the class word has no effect.

    Raises:
        UserError: when pictures are not 32 x 32.
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
        return f"toy locator {weights_fingerprint(self)}, at least {self.least} px"

    def logits(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
        """Return the log-odds that a pixel is part of the object."""
        check_size(pictures, self.kind)
        *finer, planes = self.tower(pictures)
        for up, fine in zip(self.ups, reversed(finer), strict=True):
            planes = relu(up(torch.cat([interpolate(planes, scale_factor=2.0), fine], dim=1)))
        return self.out(planes)[:, 0]

    def masks(self, pictures: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, "b h w"]:
        """Return the object's pixels, without specks."""
        return without_specks(self.logits(pictures) > 0)

    def boxes(self, pictures: Float[Tensor, "b 3 h w"], class_word: str) -> Boxes:
        return boxes_of_masks(self.masks(pictures), self.least)


class Oracle(nn.Module):
    """A classifier of every attribute of a picture: a linear head per attribute on a shared convolutional tower.

    `names` gives the values of each attribute in the order of its probabilities, "none" included where it can occur.

    Raises:
        UserError: when pictures are not 32 x 32.
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
        """Return the unnormalized log-probabilities per attribute."""
        check_size(pictures, self.kind)
        features = pooled(self.tower(pictures)[-1])
        return {attribute: head(features) for attribute, head in self.heads.items()}

    def probabilities(self, pictures: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b _n"]]:
        """Return the probabilities per attribute, in the order of `names`."""
        return {attribute: logits.softmax(dim=1) for attribute, logits in self.logits(pictures).items()}


def check_size(pictures: Float[Tensor, "b 3 h w"], judge: str) -> None:
    """Check that pictures have the only resolution of the toy judges."""
    check_pictures(pictures)
    if pictures.shape[2:] != (SIDE, SIDE):
        height, width = pictures.shape[2:]
        raise UserError(
            f"the toy {judge} reads {SIDE} x {SIDE} pictures, got {width} x {height}; choose another {judge}"
        )


def load_scorer(folder: str | Path) -> ToyScorer:
    """Load a frozen scorer from a folder; raise UserError if it is missing or does not fit its description."""
    return read_judge(ToyScorer, Path(folder))


def load_locator(folder: str | Path) -> ToyLocator:
    """Load a frozen locator from a folder; raise UserError if it is missing or does not fit its description."""
    return read_judge(ToyLocator, Path(folder))


def load_oracle(folder: str | Path) -> Oracle:
    """Load a frozen oracle from a folder; raise UserError if it is missing or does not fit its description."""
    return read_judge(Oracle, Path(folder))
