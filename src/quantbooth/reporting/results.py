"""One result: the scored images of one method on one subject at one snapshot, and what they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from quantbooth.runtime.errors import UserError
from quantbooth.sampling.image_set import UNRELATED
from quantbooth.timesteps.samplers import TimestepSampler
from quantbooth.timesteps.strategies import Strategy

__all__ = ["REQUIRED", "Cost", "Result"]

IDENTITY = ("prompt", "kind", "noise_seed")
REQUIRED = (*IDENTITY, "file", "clip_t", "clip_i", "local_clip_i", "subject_found")
NAMES = ("method", "subject", "quant", "base", "scorer", "run", "protocol")
UNDEFINED_ALLOWED = ("oracle_subject", "oracle_prompt", "oracle_class")
OF_UNRELATED = ("prior_kept",)
"""Scores of pictures of unrelated prompts only."""
OF_SUBJECT = (
    "clip_t",
    "clip_i",
    "local_clip_i",
    "subject_found",
    "dino",
    "local_dino",
    "diversity",
    *UNDEFINED_ALLOWED,
)
SCORED = (*OF_SUBJECT, *OF_UNRELATED)
LARGEST = {"diversity": 2.0}
"""The largest size of a score; cosines and shares, the others, are 1 at most."""
ROUNDING = 1e-3

Cost = float | Sequence[float]


@dataclass(frozen=True, eq=False)
class Result:
    """The input of a report; the command reads it from artifact folders.

    `method` is "float", "baseline", "s1", "s2", ...; `quant` names the weights ("fp", "w4", ...); `step` counts
    optimizer steps and is 0 for the untuned base, whatever its method is called. `scorer` names encoder, locator and
    oracle, and `protocol` how images were drawn: results that differ in either are never averaged.
    `rows` has one row per image, its `file` inside `images`, which may not be kept; an oracle score is NaN where
    the prompt asks it nothing, and images of unrelated prompts have no score but their own. `kept_until` is the
    last step that the tuning run kept, `weights` the fingerprint of the quantized base, and `strategy` says which
    timesteps were learned in and which set serves which, `density` what the former were drawn by, and `sampled` the
    timesteps of the sampler, where that is known. `settings` are the resolved options of its run, `loss` the
    training loss by step, and `texts` the prompts as a reader wants them, the class word in place of `{}`.
    `costs` may hold samples_seen, samples_per_expert (one number, or one per zone), trainable, peak_memory_bytes,
    seconds, file_bytes, base_file_bytes and overfitting (a number per timestep bin).

    Raises:
        UserError: a name that is not printable, no rows, a column missing, a score not finite or out of its range, or
            the same prompt and noise twice.
    """

    method: str
    subject: str
    quant: str
    seed: int
    step: int
    base: str
    scorer: str
    rows: pd.DataFrame
    costs: Mapping[str, Cost]
    images: Path
    references: Path | None
    run: str
    protocol: str = ""
    strategy: Strategy | None = None
    density: TimestepSampler | None = None
    sampled: tuple[float, ...] = ()
    kept_until: int | None = None
    weights: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    loss: tuple[tuple[int, float], ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in NAMES:
            if not (name := str(getattr(self, key))).isprintable():
                raise UserError(f"{key} must be printable in one line, got {name!r} from {self.run!r}")
        missing = [name for name in REQUIRED if name not in self.rows]
        if missing:
            raise UserError(f"rows of a result must have columns {', '.join(missing)}; {self.run} lacks them")
        if self.rows.empty:
            raise UserError(f"a result must have at least one scored image; {self.run} has none")
        if self.step < 0:
            raise UserError(f"a snapshot's step must be 0 or more, got {self.step} from {self.run}")
        twice = self.rows.duplicated(["prompt", "noise_seed"])
        if twice.any():
            first = self.rows[twice].iloc[0]
            raise UserError(
                f"each prompt and noise seed must occur once, got {first.prompt!r} with noise seed {first.noise_seed} "
                f"again from {self.run}"
            )
        self._check_scores()

    def _check_scores(self) -> None:
        for name in SCORED:
            if name not in self.rows:
                continue
            rows = self.rows[(self.rows["kind"] == UNRELATED) == (name in OF_UNRELATED)]
            values = rows[name].to_numpy(dtype=float)
            largest = LARGEST.get(name, 1.0)
            undefined = np.isnan(values) & (name in UNDEFINED_ALLOWED)
            wrong = ~(undefined | (np.abs(values) <= largest + ROUNDING))
            if wrong.any():
                file = rows["file"].iloc[int(wrong.argmax())]
                between = f"from {-largest:g} to {largest:g}"
                raise UserError(f"{name} must be {between}, got {values[wrong][0]} for {file} from {self.run}")

    @property
    def untuned(self) -> bool:
        """Whether this is the base itself, before any step."""
        return self.step == 0

    @cached_property
    def images_asked(self) -> frozenset[tuple[str, str, int]]:
        """Prompt, kind and noise seed of every image; two results are comparable if these are equal."""
        return frozenset(zip(*(self.rows[name].tolist() for name in IDENTITY), strict=True))

    @cached_property
    def files(self) -> dict[tuple[str, int], Path]:
        """The picture of each prompt and noise seed."""
        columns = (self.rows[name].tolist() for name in ("prompt", "noise_seed", "file"))
        return {(prompt, noise): self.images / str(file) for prompt, noise, file in zip(*columns, strict=True)}

    @cached_property
    def means(self) -> dict[str, float]:
        """Mean of every score over the images it is defined for; a score defined for none is left out."""
        scores = [name for name in SCORED if name in self.rows]
        found = {name: self.rows[name].mean() for name in scores}
        return {name: float(mean) for name, mean in found.items() if np.isfinite(mean)}
