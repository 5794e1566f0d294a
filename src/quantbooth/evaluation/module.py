"""Evaluation in Lightning's test loop: pictures in, one row of scores per picture out."""

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
    locate_regions,
    regions_of_masks,
    subject_score,
)
from quantbooth.runtime.precision import full_precision
from quantbooth.sampling.image_set import UNRELATED, Request, read_images

__all__ = ["EvaluationModule", "Oracle", "Scorer"]

Columns = dict[str, Tensor]


class EvaluationModule(LightningModule):
    """Scores an image set of one subject; references and prompts are encoded once.

    Pictures of the subject get all scores but `prior_kept`, pictures of unrelated prompts only `prior_kept`.

    Args:
        untuned: folder of the untuned base's pictures, compared with those of unrelated prompts.
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
        self.judges = nn.ModuleList(scorer.judges)  # so that all move along
        self.subject = subject
        self.requests = tuple(requests)
        self.folder, self.untuned = folder, untuned
        self.rows: list[dict[str, Any]] = []
        self.texts: dict[str, Tensor] = {}
        self.waiting: dict[str, list[tuple[dict[str, Any], Tensor]]] = {}
        self.of_prompt = Counter(request.prompt for request in requests if request.kind != UNRELATED)

    @property
    def measured_with(self) -> dict[str, str]:
        """Judges and comparison by metric, and whether masks gave the subject in the references."""
        masked = self.subject.reference_masks is not None
        judges = self.scorer.measured_with
        return {
            k: f"{v}, references by their masks" if masked and k.startswith("local_") else v for k, v in judges.items()
        }

    @torch.no_grad()
    def on_test_start(self) -> None:
        with full_precision(self.device):  # a prompt that the encoder refuses ends the run before a picture is scored
            for request in self.requests:
                if request.kind != UNRELATED:
                    self._texts([request.judged_text])
        references, masks = self.subject.references.to(self.device), self.subject.reference_masks
        if masks is None:
            regions = self._regions(references)
        else:
            regions = regions_of_masks(references, masks.to(self.device), self.scorer.background)
        encoders = [self.scorer.encoder, *([self.scorer.dino] if self.scorer.dino else [])]
        self.references = [(one.images(references), one.images(regions.pictures)) for one in encoders]

    def test_step(self, indices: list[int]) -> None:
        with full_precision(self.device):  # methods differ by less than two neighbours of bfloat16 near 1 do
            self._score(indices)

    def _score(self, indices: list[int]) -> None:
        requests = [self.requests[index] for index in indices]
        for score, chosen in (
            (self.of_subject, [request for request in requests if request.kind != UNRELATED]),
            (self.of_unrelated, [request for request in requests if request.kind == UNRELATED]),
        ):
            if chosen:
                score(chosen, self._read(self.folder, chosen))

    def of_subject(self, requests: Sequence[Request], pictures: Tensor) -> None:
        """Return rows for pictures of the subject."""
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
        """Return rows for pictures of prompts that do not mention the subject."""
        if self.untuned is None:
            raise ValueError("pictures of unrelated prompts need those of the untuned base to compare with, got none")
        base = self._read(self.untuned, requests)
        before, after = self.scorer.encoder.images(base), self.scorer.encoder.images(pictures)
        self._note(requests, {"prior_kept": 1 - drift(before, after)})

    def _read(self, folder: Path, requests: Sequence[Request]) -> Tensor:
        return read_images([folder / request.file for request in requests]).to(self.device)

    def _regions(self, pictures: Tensor) -> Regions:
        return locate_regions(self.scorer.locator, pictures, self.subject.class_word, self.scorer.background)

    def _likeness(self, name: str, number: int, encoder: ImageEncoder, features: Tensor, regions: Regions) -> Columns:
        """Return similarities to the references, of the whole picture and of the subject's region."""
        whole, region = self.references[number]
        return {
            name: clip_i(features, whole),
            f"local_{name}": clip_i(encoder.images(regions.pictures), region),
        }

    def _texts(self, sentences: Sequence[str]) -> Tensor:
        """Return features of prompts, each encoded once and separately, so that they do not depend on their batch."""
        for sentence in sentences:
            if sentence not in self.texts:
                self.texts[sentence] = self.scorer.encoder.texts([sentence])[0]
        return torch.stack([self.texts[sentence] for sentence in sentences])

    def _note(self, requests: Sequence[Request], columns: Columns) -> list[dict[str, Any]]:
        made, scores = [], {name: values.tolist() for name, values in columns.items()}  # one wait for a GPU per column
        for index, request in enumerate(requests):
            about = {"prompt": request.prompt, "kind": request.kind, "noise_seed": request.seed, "file": request.file}
            made.append(about | {name: values[index] for name, values in scores.items()})
        self.rows += made
        return made

    def _diverse(self, prompt: str, row: dict[str, Any], feature: Tensor) -> None:
        """Add the diversity to a prompt's rows when all its pictures are scored; one picture has none."""
        if self.of_prompt[prompt] < 2:
            return
        waiting = self.waiting.setdefault(prompt, [])
        waiting.append((row, feature))
        if len(waiting) == self.of_prompt[prompt]:
            found = diversity_of_each(torch.stack([feature for _, feature in waiting])).tolist()
            for (one, _), value in zip(self.waiting.pop(prompt), found, strict=True):
                one["diversity"] = value

    def oracle_columns(self, pictures: Tensor, requests: Sequence[Request]) -> Columns:
        """Return the oracle's scores of the subject's attributes, the requested ones and the class; NaN for none."""
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
    """Return the mean probability of each picture's list of attributes; NaN for an empty list."""
    nothing = next(iter(probabilities.values())).new_full((), float("nan"))  # made there, not sent
    values = [
        subject_score({k: v[i : i + 1] for k, v in probabilities.items()}, names, dict(row))[0] if row else nothing
        for i, row in enumerate(rows)
    ]
    return torch.stack(values)
