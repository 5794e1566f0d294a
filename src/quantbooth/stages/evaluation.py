"""Evaluation under Lightning's test loop: pictures in, one row of scores per picture out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from quantbooth.artifacts.image_set import Request, read_images
from quantbooth.data.subjects import Subject
from quantbooth.metrics.encoders import Encoder
from quantbooth.metrics.locators import Locator
from quantbooth.metrics.scores import clip_i, clip_t, local_clip_i, local_views, masked_views, subject_score
from quantbooth.toyworld.judge_files import fingerprint

__all__ = ["EvaluationStage", "Oracle", "Scorer"]

Probabilities = dict[str, Float[Tensor, "b n"]]


class Oracle(Protocol):
    """Knows the truth of a world: what is in a picture, attribute by attribute."""

    names: dict[str, tuple[str, ...]]

    def probabilities(self, pictures: Float[Tensor, "b 3 h w"]) -> Probabilities: ...


class Scorer:
    """An encoder, a locator, and where the world is known an oracle; all figures of one table come from one scorer."""

    def __init__(self, encoder: Encoder, locator: Locator, oracle: Oracle | None = None) -> None:
        self.encoder = encoder
        self.locator = locator
        self.oracle = oracle

    @property
    def name(self) -> str:
        """Encoder, locator and oracle, each by its weights: figures of scorers with different names never meet."""
        parts = [self.encoder.name, self.locator.name]
        if isinstance(self.oracle, nn.Module):
            parts.append(f"toy oracle {fingerprint(self.oracle)}")
        return " | ".join(parts)


class EvaluationStage(LightningModule):
    """Scores an image set of one subject; the subject's references are encoded once."""

    def __init__(self, scorer: Scorer, subject: Subject, requests: Sequence[Request], folder: Path) -> None:
        super().__init__()
        self.scorer = scorer
        judges = (scorer.encoder, scorer.locator, scorer.oracle)
        self.judges = nn.ModuleList(judge for judge in judges if isinstance(judge, nn.Module))  # so that all move
        self.subject = subject
        self.requests = tuple(requests)
        self.folder = folder
        self.rows: list[dict[str, Any]] = []

    @torch.no_grad()
    def on_test_start(self) -> None:
        scorer, references, masks = self.scorer, self.subject.references.to(self.device), self.subject.reference_masks
        self.references = scorer.encoder.images(references)
        if masks is None:
            self.reference_views = local_views(scorer.encoder, scorer.locator, references, self.subject.class_word)
        else:
            self.reference_views = masked_views(scorer.encoder, references, masks.to(self.device))

    @torch.no_grad()
    def test_step(self, places: list[int]) -> None:
        requests = [self.requests[place] for place in places]
        pictures = read_images([self.folder / request.file for request in requests]).to(self.device)
        encoder, locator = self.scorer.encoder, self.scorer.locator
        features = encoder.images(pictures)
        texts = encoder.texts([request.judged_text for request in requests])
        local = local_clip_i(local_views(encoder, locator, pictures, self.subject.class_word), self.reference_views)
        columns = {
            "clip_t": clip_t(features, texts),
            "clip_i": clip_i(features, self.references),
            "local_clip_i": local.score,
            "subject_found": local.found.float(),
        }
        columns |= self.oracle_columns(pictures, requests)
        for place, request in enumerate(requests):
            about = {"prompt": request.prompt, "kind": request.kind, "noise_seed": request.seed, "file": request.file}
            self.rows.append(about | {name: float(values[place]) for name, values in columns.items()})

    def oracle_columns(self, pictures: Tensor, requests: Sequence[Request]) -> dict[str, Tensor]:
        """What the oracle says: the subject's own attributes, what the prompt asked for, and the class (no figure where
        nothing is asked).
        """
        oracle = self.scorer.oracle
        if oracle is None:
            return {}
        probabilities = oracle.probabilities(pictures)
        own = [{name: value for name, value in request.own.items() if name != "class_word"} for request in requests]
        kind = [{"class_word": self.subject.class_word}] * len(requests)
        asked = [request.asked for request in requests]
        wanted: dict[str, Sequence[Mapping[str, str]]] = {
            "oracle_subject": own,
            "oracle_prompt": asked,
            "oracle_class": kind,
        }
        return {name: _each(probabilities, oracle.names, rows) for name, rows in wanted.items()}


def _each(probabilities: Probabilities, names: dict[str, tuple[str, ...]], rows: Sequence[Mapping[str, str]]) -> Tensor:
    """Mean probability of each picture's own list of attributes; NaN for an empty list."""
    values = [
        subject_score({k: v[i : i + 1] for k, v in probabilities.items()}, names, dict(row))[0]
        if row
        else torch.tensor(float("nan"))
        for i, row in enumerate(rows)
    ]
    return torch.stack(values)
