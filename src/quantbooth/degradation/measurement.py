"""Measure a base, float or quantized: its pictures beside the float ones', its prediction errors, their scores.

Same-noise comparison under Lightning's predict loop: two pictures of one question in, one row of scores out.

What is measured on a base, float or quantized alike: pictures, prediction errors, and what judges say of both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from rich.progress import track
from torch import Tensor, nn

from quantbooth.data.questions import Questions
from quantbooth.degradation.files import RIGHT, Reference
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.sampler import Sampler
from quantbooth.evaluation.prediction_errors import PredictionErrors, draw_triples
from quantbooth.evaluation.scorer import Scorer
from quantbooth.evaluation.scores import clip_t, mean_squared_error, ssim
from quantbooth.runtime.draws import place_loader
from quantbooth.sampling.image_set import Request, read_images, write_image
from quantbooth.sampling.module import SamplingStage, drawings
from quantbooth.timesteps.zones import Zones

__all__ = ["Measurement", "SameNoise", "right_answers"]


class SameNoise(LightningModule):
    """Compares the pictures in one folder with those of the same name in another, and judges them by their sentences.

    A row holds `ssim` and `mse` against the other picture, `clip_t` with its sentence, and where the scorer has an
    oracle `right_<attribute>` (1 or 0) for each attribute the sentence asks for.
    """

    def __init__(self, scorer: Scorer, requests: Sequence[Request], folder: Path, against: Path) -> None:
        super().__init__()
        self.scorer = scorer
        judges = (scorer.encoder, scorer.oracle)
        self.judges = nn.ModuleList(judge for judge in judges if isinstance(judge, nn.Module))  # so that all move
        self.requests = tuple(requests)
        self.folder, self.against = folder, against
        self.rows: list[dict[str, Any]] = []

    def predict_step(self, places: list[int]) -> int:
        requests = [self.requests[place] for place in places]
        pictures, others = (
            read_images([folder / request.file for request in requests]).to(self.device)
            for folder in (self.folder, self.against)
        )
        features = self.scorer.encoder.images(pictures)
        columns = {
            "clip_t": clip_t(features, self.scorer.encoder.texts([request.judged_text for request in requests])),
            "ssim": ssim(pictures, others),
            "mse": mean_squared_error(pictures, others),
        }
        answers = self.answers(pictures, requests)
        for place, request in enumerate(requests):
            about = {"file": request.file, "text": request.text, "noise_seed": request.seed}
            scores = {name: float(values[place]) for name, values in columns.items()}
            self.rows.append(about | scores | answers[place])
        return len(requests)

    def answers(self, pictures: Float[Tensor, "b 3 h w"], requests: Sequence[Request]) -> list[dict[str, float]]:
        """Per picture: which of the attributes asked for the oracle sees; nothing without an oracle."""
        oracle = self.scorer.oracle
        if oracle is None:
            return [{} for _ in requests]
        probabilities = oracle.probabilities(pictures)
        return right_answers(probabilities, oracle.names, [request.asked for request in requests])


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


Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Measurement:
    """The questions of one measurement and how they are asked; the same for every setting of a sweep.

    Attributes:
        questions: as many as the larger of the two numbers below.
        predictions: (x_t, t, c) in each zone.
        pictures: how many of the questions are drawn and judged.
        seed: of timesteps and noise of the predictions (a picture's noise is its question's).
        batch: samples at a time.
        trainer: makes the trainer whose progress bar says what it is told.
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
        self._run(stage, count, f"drawing by {what}")

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
        parts = track(pictures.split(self.batch), "encoding held-out pictures", transient=True)
        return torch.cat([base.encode_images(part).cpu() for part in parts])

    def predict(self, base: Base, x_0: Tensor, reference: Reference | None, what: str) -> tuple[Rows, Tensor]:
        """Rows of errors, and the predictions themselves, in the order of the triples."""
        triples = draw_triples(self.zones, self.predictions, self.seed)
        texts = [question.text for question in self.questions.each]
        stage = PredictionErrors(base, triples, texts, x_0, reference.predicted if reference else None)
        self._run(stage, len(triples), f"prediction errors of {what}")
        return stage.rows, torch.cat(stage.predicted)

    def judge(self, folder: Path, against: Path, what: str) -> Rows:
        """Rows of scores of the pictures in a folder, compared with those of the same noise in another."""
        stage = SameNoise(self.scorer, self._requests(self.pictures), folder, against)
        self._run(stage, self.pictures, f"judging {what}")
        return stage.rows

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

    def _run(self, stage: LightningModule, count: int, what: str) -> None:
        self.trainer(what).predict(stage, place_loader(count, self.batch), return_predictions=False)
