"""Evaluation under Lightning's test loop: pictures in, one row of scores per picture out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from quantbooth.data.subjects import Subject
from quantbooth.evaluation.encoders import ImageEncoder
from quantbooth.evaluation.scorer import Oracle, Probabilities, Scorer
from quantbooth.evaluation.scores import (
    Regions,
    clip_i,
    clip_t,
    diversity_of_each,
    drift,
    known,
    located,
    subject_score,
)
from quantbooth.runtime.precision import full_precision
from quantbooth.sampling.image_set import UNRELATED, Request, read_images

__all__ = ["EvaluationStage", "Oracle", "Scorer"]

Columns = dict[str, Tensor]


class EvaluationStage(LightningModule):
    """Scores an image set of one subject; its references, and every sentence, are encoded once.

    A picture of the subject gets all scores but `prior_kept`, which those of unrelated prompts get alone.

    Args:
        untuned: folder of the untuned base's pictures, what those of unrelated prompts are compared with.
    """

    def __init__(
        self,
        scorer: Scorer,
        subject: Subject,
        requests: Sequence[Request],
        folder: Path,
        untuned: Path | None = None,
    ) -> None:
        super().__init__()
        self.scorer = scorer
        self.judges = nn.ModuleList(scorer.judges)  # so that all move
        self.subject = subject
        self.requests = tuple(requests)
        self.folder, self.untuned = folder, untuned
        self.rows: list[dict[str, Any]] = []
        self.texts: dict[str, Tensor] = {}
        self.waiting: dict[str, list[tuple[dict[str, Any], Tensor]]] = {}
        self.of_prompt = Counter(request.prompt for request in requests if request.kind != UNRELATED)

    @property
    def measured_with(self) -> dict[str, str]:
        """By metric: the judges, what is compared with what, and whether masks told the subject in the references."""
        masked = self.subject.reference_masks is not None
        told = self.scorer.measured_with
        return {
            k: f"{v}, references by their masks" if masked and k.startswith("local_") else v for k, v in told.items()
        }

    @torch.no_grad()
    def on_test_start(self) -> None:
        references, masks = self.subject.references.to(self.device), self.subject.reference_masks
        if masks is None:
            regions = self._regions(references)
        else:
            regions = known(references, masks.to(self.device), self.scorer.background)
        encoders = [self.scorer.encoder, *([self.scorer.dino] if self.scorer.dino else [])]
        self.references = [(one.images(references), one.images(regions.pictures)) for one in encoders]

    def test_step(self, places: list[int]) -> None:
        with full_precision(self.device):  # methods differ by less than two neighbours of bfloat16 near 1 do
            self._score(places)

    def _score(self, places: list[int]) -> None:
        requests = [self.requests[place] for place in places]
        for score, chosen in (
            (self.of_subject, [request for request in requests if request.kind != UNRELATED]),
            (self.of_unrelated, [request for request in requests if request.kind == UNRELATED]),
        ):
            if chosen:
                score(chosen, self._read(self.folder, chosen))

    def of_subject(self, requests: Sequence[Request], pictures: Tensor) -> None:
        """Rows of pictures of the subject."""
        features, texts = self.scorer.encoder.images(pictures), self._texts([r.judged_text for r in requests])
        regions = self._regions(pictures)
        columns = {"clip_t": clip_t(features, texts)}
        columns |= self._likeness("clip_i", 0, self.scorer.encoder, features, regions)
        columns["subject_found"] = regions.found.float()
        if self.scorer.dino is not None:
            own = self.scorer.dino.images(pictures)
            columns |= self._likeness("dino", 1, self.scorer.dino, own, regions)
        rows = self._note(requests, columns | self.oracle_columns(pictures, requests))
        for request, row, feature in zip(requests, rows, features, strict=True):
            self._diverse(request.prompt, row, feature)

    def of_unrelated(self, requests: Sequence[Request], pictures: Tensor) -> None:
        """Rows of pictures of prompts that do not name the subject."""
        if self.untuned is None:
            raise ValueError("pictures of unrelated prompts need those of the untuned base to compare with, got none")
        base = self._read(self.untuned, requests)
        before, after = self.scorer.encoder.images(base), self.scorer.encoder.images(pictures)
        self._note(requests, {"prior_kept": 1 - drift(before, after)})

    def _read(self, folder: Path, requests: Sequence[Request]) -> Tensor:
        return read_images([folder / request.file for request in requests]).to(self.device)

    def _regions(self, pictures: Tensor) -> Regions:
        return located(self.scorer.locator, pictures, self.subject.class_word, self.scorer.background)

    def _likeness(self, name: str, number: int, encoder: ImageEncoder, features: Tensor, regions: Regions) -> Columns:
        """To the references, of the whole picture and of the subject's region."""
        whole, region = self.references[number]
        return {
            name: clip_i(features, whole),
            f"local_{name}": clip_i(encoder.images(regions.pictures), region),
        }

    def _texts(self, sentences: Sequence[str]) -> Tensor:
        """Features of sentences; each is encoded once and alone, so that they do not depend on their batch."""
        for sentence in sentences:
            if sentence not in self.texts:
                self.texts[sentence] = self.scorer.encoder.texts([sentence])[0]
        return torch.stack([self.texts[sentence] for sentence in sentences])

    def _note(self, requests: Sequence[Request], columns: Columns) -> list[dict[str, Any]]:
        made = []
        for place, request in enumerate(requests):
            about = {"prompt": request.prompt, "kind": request.kind, "noise_seed": request.seed, "file": request.file}
            made.append(about | {name: float(values[place]) for name, values in columns.items()})
        self.rows += made
        return made

    def _diverse(self, prompt: str, row: dict[str, Any], feature: Tensor) -> None:
        """Give a prompt's rows their diversity as soon as all its pictures are there; a single one has none."""
        if self.of_prompt[prompt] < 2:
            return
        waiting = self.waiting.setdefault(prompt, [])
        waiting.append((row, feature))
        if len(waiting) == self.of_prompt[prompt]:
            found = diversity_of_each(torch.stack([feature for _, feature in waiting]))
            for (one, _), value in zip(self.waiting.pop(prompt), found, strict=True):
                one["diversity"] = float(value)

    def oracle_columns(self, pictures: Tensor, requests: Sequence[Request]) -> Columns:
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
    device = next(iter(probabilities.values())).device
    values = [
        subject_score({k: v[i : i + 1] for k, v in probabilities.items()}, names, dict(row))[0]
        if row
        else torch.tensor(float("nan"), device=device)
        for i, row in enumerate(rows)
    ]
    return torch.stack(values)
