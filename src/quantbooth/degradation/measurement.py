"""Measure a base, float or quantized: its pictures beside the float ones', its prediction errors, their scores.

What is measured is the same for both: pictures, prediction errors, and what judges say of the pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Trainer
from torch import Tensor, nn

from quantbooth.data.questions import Questions
from quantbooth.degradation.files import RIGHT, Reference
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.sampler import Sampler
from quantbooth.evaluation.prediction_errors import draw_triples, measure_predictions
from quantbooth.evaluation.scorer import Scorer
from quantbooth.evaluation.scores import clip_t, mean_squared_error, ssim
from quantbooth.runtime.draws import batches, place_loader
from quantbooth.runtime.lightning import Loop
from quantbooth.runtime.precision import full_precision
from quantbooth.runtime.progress import progress
from quantbooth.sampling.image_set import Request, read_images, write_image
from quantbooth.sampling.module import SamplingStage, drawings
from quantbooth.timesteps.zones import Zones

__all__ = ["Measurement", "compare_pictures", "right_answers"]

Rows = list[dict[str, Any]]


def compare_pictures(
    scorer: Scorer, requests: Sequence[Request], folder: Path, against: Path, loop: Loop, batch: int, what: str
) -> Rows:
    """Compare the pictures in one folder with those of the same name in another, and judge them by their sentences.

    A row holds `ssim` and `mse` against the other picture, `clip_t` with its sentence, and where the scorer has an
    oracle `right_<attribute>` (1 or 0) for each attribute the sentence asks for.
    """

    def rows(places: list[int]) -> Rows:
        with full_precision(loop.device):
            return compared([requests[place] for place in places])

    def compared(chosen: list[Request]) -> Rows:
        pictures, others = (
            read_images([each / request.file for request in chosen]).to(loop.device) for each in (folder, against)
        )
        columns = {
            "clip_t": clip_t(
                scorer.encoder.images(pictures), scorer.encoder.texts([request.judged_text for request in chosen])
            ),
            "ssim": ssim(pictures, others),
            "mse": mean_squared_error(pictures, others),
        }
        answers = _answers(scorer, pictures, chosen)
        about = [{"file": one.file, "text": one.text, "noise_seed": one.seed} for one in chosen]
        return [
            row | {name: float(values[k]) for name, values in columns.items()} | answers[k]
            for k, row in enumerate(about)
        ]

    loop.place(*(judge for judge in (scorer.encoder, scorer.oracle) if isinstance(judge, nn.Module)))
    return list(chain.from_iterable(loop.map(rows, batches(len(requests), batch), what)))


def _answers(scorer: Scorer, pictures: Float[Tensor, "b 3 h w"], requests: Sequence[Request]) -> list[dict[str, float]]:
    """Per picture: which of the attributes asked for the oracle sees; nothing without an oracle."""
    if scorer.oracle is None:
        return [{} for _ in requests]
    probabilities = scorer.oracle.probabilities(pictures)
    return right_answers(probabilities, scorer.oracle.names, [request.asked for request in requests])


def right_answers(
    probabilities: Mapping[str, Float[Tensor, "b _n"]],
    names: Mapping[str, tuple[str, ...]],
    asked: Sequence[Mapping[str, str]],
) -> list[dict[str, float]]:
    """Per picture: `right_<attribute>` is 1 where the oracle's first guess is what was asked for, else 0.

    Raises:
        ValueError: the oracle does not know an attribute or a value that is asked for.
    """
    rows = []
    for place, wanted in enumerate(asked):
        for name, value in wanted.items():
            if value not in names.get(name, ()):
                raise ValueError(f"the oracle must know {name}={value!r}, got only {', '.join(names.get(name, names))}")
        guesses = {name: names[name][int(probabilities[name][place].argmax())] for name in wanted}
        rows.append({RIGHT + name: float(guesses[name] == value) for name, value in wanted.items()})
    return rows


@dataclass(frozen=True)
class Measurement:
    """The questions of one measurement and how they are asked; the same for every setting of a sweep.

    Attributes:
        questions: as many as the larger of the two numbers below.
        predictions: (x_t, t, c) in each zone.
        pictures: how many of the questions are drawn and judged.
        seed: of timesteps and noise of the predictions (a picture's noise is its question's).
        batch: samples at a time.
        trainer: makes the trainer of a drawing from what it does, in words; loops run as it does.
    """

    questions: Questions
    predictions: int
    pictures: int
    zones: Zones
    sampler: Sampler
    scorer: Scorer
    seed: int
    batch: int
    trainer: Callable[[str], Trainer]

    def rehearse(self, side: int) -> None:
        """Show the judges an empty picture and every sentence, so that what they refuse is refused before any work."""
        blank = torch.zeros(1, 3, side, side)
        self.scorer.encoder.images(blank)
        self.scorer.encoder.texts([question.text for question in self.questions.each])
        if self.scorer.oracle is not None:
            self.scorer.oracle.probabilities(blank)

    def draw(self, base: Base, folder: Path, count: int, what: str) -> None:
        """Pictures of the first questions, one file each."""
        folder.mkdir()
        stage = SamplingStage(base, self.sampler, drawings(self._requests(count), folder))
        trainer = self.trainer(f"drawing by {what}")
        trainer.predict(stage, place_loader(count, self.batch), return_predictions=False)

    def draw_reference(self, base: Base, folder: Path) -> Float[Tensor, "n 3 h w"]:
        """The float base's pictures, and what x_0 is made of: the true pictures, or its own where nobody knows them."""
        own = self.questions.pictures is None
        count = max(self.pictures, self.predictions) if own else self.pictures
        self.draw(base, folder, count, "float")
        if self.questions.pictures is not None:
            return self.questions.pictures[: self.predictions]
        return read_images([folder / request.file for request in self._requests(self.predictions)])

    def encode(self, base: Base, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c hl wl"]:
        """x_0 of each."""
        parts = progress(pictures.split(self.batch), "encoding held-out pictures")
        return torch.cat([base.encode_images(part).cpu() for part in parts])

    def predict(self, base: Base, x_0: Tensor, reference: Reference | None, what: str) -> tuple[Rows, Tensor]:
        """Rows of errors, and the predictions themselves, in the order of the triples."""
        triples = draw_triples(self.zones, self.predictions, self.seed)
        texts = [question.text for question in self.questions.each]
        compared, what = reference.predicted if reference else None, f"prediction errors of {what}"
        return measure_predictions(base, triples, texts, x_0, compared, self._loop, self.batch, what)

    def judge(self, folder: Path, against: Path, what: str) -> Rows:
        """Rows of scores of the pictures in a folder, compared with those of the same noise in another."""
        requests, what = self._requests(self.pictures), f"judging {what}"
        return compare_pictures(self.scorer, requests, folder, against, self._loop, self.batch, what)

    def write_truth(self, folder: Path) -> Path:
        """The true pictures by the names of the drawn ones; return the folder.

        Raises:
            ValueError: when nobody knows them.
        """
        if self.questions.pictures is None:
            raise ValueError(f"the true pictures must be known, got none of {self.questions.name}")
        folder.mkdir()
        for place, request in enumerate(self._requests(self.pictures)):
            write_image(folder / request.file, self.questions.pictures[place])
        return folder

    def _requests(self, count: int) -> list[Request]:
        return [
            Request(f"{place:04d}.png", q.text, q.text, q.text, "held out", q.seed, dict(q.asked))
            for place, q in enumerate(self.questions.each[:count])
        ]

    @property
    def _loop(self) -> Loop:
        return Loop.like(self.trainer(""))
