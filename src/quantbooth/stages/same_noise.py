"""Same-noise comparison under Lightning's predict loop: two pictures of one question in, one row of scores out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from quantbooth.artifacts.damage import RIGHT
from quantbooth.artifacts.image_set import Request, read_images
from quantbooth.metrics.pictures import mean_squared_error, ssim
from quantbooth.metrics.scores import clip_t
from quantbooth.stages.evaluation import Scorer

__all__ = ["SameNoise", "right_answers"]


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
