"""Measure a base, float or quantized: generated pictures, prediction errors, and scores of the pictures."""

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
from quantbooth.runtime.draws import batches, index_loader
from quantbooth.runtime.lightning import Loop
from quantbooth.runtime.precision import full_precision
from quantbooth.runtime.progress import progress
from quantbooth.sampling.image_set import Request, read_images, write_image
from quantbooth.sampling.module import SamplingModule, image_jobs
from quantbooth.timesteps.zones import Zones

__all__ = ["Measurement", "compare_pictures", "right_answers"]

Rows = list[dict[str, Any]]


def compare_pictures(
    scorer: Scorer, requests: Sequence[Request], folder: Path, against: Path, loop: Loop, batch: int, what: str
) -> Rows:
    """Compare the pictures in one folder with those of the same name in another, and score them against their prompts.

    A row has `ssim` and `mse` against the other picture, `clip_t` with its prompt, and with an oracle
    `right_<attribute>` (1 or 0) for each requested attribute.
    """

    def rows(indices: list[int]) -> Rows:
        with full_precision(loop.device):
            return compared([requests[index] for index in indices])

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
        answers, scores = (
            _answers(scorer, pictures, chosen),
            {name: values.tolist() for name, values in columns.items()},
        )
        about = [{"file": one.file, "text": one.text, "noise_seed": one.seed} for one in chosen]
        return [row | {name: values[k] for name, values in scores.items()} | answers[k] for k, row in enumerate(about)]

    loop.place(*(judge for judge in (scorer.encoder, scorer.oracle) if isinstance(judge, nn.Module)))
    return list(chain.from_iterable(loop.map(rows, batches(len(requests), batch), what)))


def _answers(scorer: Scorer, pictures: Float[Tensor, "b 3 h w"], requests: Sequence[Request]) -> list[dict[str, float]]:
    """Return per picture which requested attributes the oracle sees; empty without an oracle."""
    if scorer.oracle is None:
        return [{} for _ in requests]
    probabilities = scorer.oracle.probabilities(pictures)
    return right_answers(probabilities, scorer.oracle.names, [request.asked for request in requests])


def right_answers(
    probabilities: Mapping[str, Float[Tensor, "b _n"]],
    names: Mapping[str, tuple[str, ...]],
    asked: Sequence[Mapping[str, str]],
) -> list[dict[str, float]]:
    """Return per picture `right_<attribute>`: 1 where the oracle's first guess is the requested value, else 0.

    Raises:
        ValueError: for a requested attribute or value that the oracle does not know.
    """
    rows, first = [], {name: values.argmax(dim=1).tolist() for name, values in probabilities.items()}
    for index, wanted in enumerate(asked):
        for name, value in wanted.items():
            if value not in names.get(name, ()):
                raise ValueError(f"the oracle must know {name}={value!r}, got only {', '.join(names.get(name, names))}")
        guesses = {name: names[name][first[name][index]] for name in wanted}
        rows.append({RIGHT + name: float(guesses[name] == value) for name, value in wanted.items()})
    return rows


@dataclass(frozen=True)
class Measurement:
    """The questions of a measurement and its settings, the same for every setting of a sweep.

    Attributes:
        questions: as many as the larger of the two numbers below.
        predictions: number of (x_t, t, c) in each zone.
        pictures: number of questions to generate and score.
        seed: of timesteps and noise of the predictions (a picture's noise depends on its question).
        batch: samples per batch.
        trainer: returns a trainer, given the text of its progress bar; loops use its device and precision.
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

    def check_judges(self, side: int) -> None:
        """Score a blank picture and every prompt, so that unsupported ones are refused before any work."""
        questions = self.questions.each
        asked = [question.asked for question in questions]
        self.scorer.check(torch.zeros(1, 3, side, side), [question.text for question in questions], None, asked)

    def generate(self, base: Base, folder: Path, count: int, what: str) -> None:
        """Generate pictures of the first questions, one file each."""
        folder.mkdir()
        module = SamplingModule(base, self.sampler, image_jobs(self._requests(count), folder))
        trainer = self.trainer(f"generating by {what}")
        trainer.predict(module, index_loader(count, self.batch), return_predictions=False)

    def generate_reference(self, base: Base, folder: Path) -> Float[Tensor, "n 3 h w"]:
        """Generate the float base's pictures; return those of x_0: the true ones, or the generated ones if unknown."""
        own = self.questions.pictures is None
        count = max(self.pictures, self.predictions) if own else self.pictures
        self.generate(base, folder, count, "float")
        if self.questions.pictures is not None:
            return self.questions.pictures[: self.predictions]
        return read_images([folder / request.file for request in self._requests(self.predictions)])

    def encode(self, base: Base, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c hl wl"]:
        """Return x_0 of each picture."""
        parts = progress(pictures.split(self.batch), "encoding held-out pictures")
        return torch.cat([base.encode_images(part).cpu() for part in parts])

    def predict(self, base: Base, x_0: Tensor, reference: Reference | None, what: str) -> tuple[Rows, Tensor]:
        """Return rows of errors, and the predictions, in the order of the triples."""
        triples = draw_triples(self.zones, self.predictions, self.seed)
        texts = [question.text for question in self.questions.each]
        compared, what = reference.predicted if reference else None, f"prediction errors of {what}"
        return measure_predictions(base, triples, texts, x_0, compared, self._loop, self.batch, what)

    def judge(self, folder: Path, against: Path, what: str) -> Rows:
        """Return rows of scores of the pictures in a folder, compared with those of the same noise in another."""
        requests, what = self._requests(self.pictures), f"judging {what}"
        return compare_pictures(self.scorer, requests, folder, against, self._loop, self.batch, what)

    def write_truth(self, folder: Path) -> Path:
        """Write the true pictures under the names of the generated ones; return the folder.

        Raises:
            ValueError: when they are unknown.
        """
        if self.questions.pictures is None:
            raise ValueError(f"{self.questions.name} must have true pictures, got none")
        folder.mkdir()
        for index, request in enumerate(self._requests(self.pictures)):
            write_image(folder / request.file, self.questions.pictures[index])
        return folder

    def _requests(self, count: int) -> list[Request]:
        return [
            Request(f"{index:04d}.png", q.text, q.text, q.text, "held out", q.seed, dict(q.asked))
            for index, q in enumerate(self.questions.each[:count])
        ]

    @property
    def _loop(self) -> Loop:
        return Loop.like(self.trainer(""))
