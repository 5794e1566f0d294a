"""The judges' building blocks: a convolutional tower from pictures to planes, and a word-level tokenizer."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import relu

from quantbooth.errors import UserError

__all__ = ["PooledTower", "Tower", "WordTokenizer", "normalized", "pooled"]


def normalized(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution and its batch normalization."""
    convolution = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside))


class Down(nn.Module):
    """Halves the resolution, then refines around a shortcut: h = relu(halve(x)), y = relu(h + refine(h))."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.halve = normalized(inside, outside, stride=2)
        self.refine = normalized(outside, outside)

    def forward(self, planes: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        halved = relu(self.halve(planes))
        return relu(halved + self.refine(halved))


class Tower(nn.Module):
    """Pictures in [0, 1] to planes at 32, 16, 8, ... pixels: one level per width, finest first."""

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
    """Mean and maximum over the picture: how much of a feature there is, and whether it is anywhere."""
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
    """One number per word; the end of a sentence has the highest, since CLIP reads a sentence at its highest number.

    Raises:
        UserError: a word is not among `words`, or a sentence is too long (when called).
    """

    def __init__(self, words: Sequence[str], length: int) -> None:
        self.words, self.length = tuple(words), length
        self.start, self.end = len(self.words) + 1, len(self.words) + 2
        self._numbers = {word: i for i, word in enumerate(self.words, start=1)}

    @property
    def size(self) -> int:
        """How many numbers there are: the words, padding (0), start and end."""
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
