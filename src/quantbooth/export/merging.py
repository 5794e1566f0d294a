"""Merging: one denoiser in place of one per zone of timesteps, and the error that this adds."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from quantbooth.data.subjects import Subject
from quantbooth.diffusion.base import Base
from quantbooth.evaluation.prediction_errors import draw_triples, measure_predictions
from quantbooth.runtime.lightning import Loop
from quantbooth.timesteps.zones import Zone, Zones

__all__ = ["Merging", "prediction_errors"]

TRIPLES = 32
"""Least number of held-out (x_t, t, text) per zone; a photo is used several times, with other noise and timesteps."""
BATCH = 8


@dataclass(frozen=True)
class Merging:
    """The number of timesteps of each set.

    Attributes:
        stretches: (first timestep, timestep after the last, set) over all timesteps, in ascending order.
        served: the zones of the sets, for their names.
    """

    stretches: tuple[tuple[int, int, int], ...]
    served: Zones

    @property
    def timesteps(self) -> int:
        return self.stretches[-1][1]

    @cached_property
    def shares(self) -> dict[int, float]:
        """The share of all timesteps that each set is used at; set 0 is the base."""
        counts: Counter[int] = Counter()
        for first, end, index in self.stretches:
            counts[index] += end - first
        return {index: count / self.timesteps for index, count in sorted(counts.items())}

    def folders(self, main: str) -> dict[str, int]:
        """Return each set by its folder: `main` for a single one, else `main_<k>_<zone>`."""
        alone = len(self.shares) == 1
        return {main if alone else f"{main}_{index}_{self._zone(index)}": index for index in self.shares}

    def rows(self, main: str) -> list[tuple[int, int, str]]:
        """Return the stretches with folders in place of sets."""
        names = {index: name for name, index in self.folders(main).items()}
        return [(first, end, names[index]) for first, end, index in self.stretches]

    def _zone(self, index: int) -> str:
        return re.sub(r"\W+", "-", self.served.names[index - 1]) if index else "base"


def prediction_errors(
    parts: Base, merged: Base, subject: Subject, zones: Zones, loop: Loop
) -> dict[str, tuple[float, float]]:
    """Return two figures by zone, on the subject's photos.

    The first is the mean squared error of the routed prediction; the second is the mean squared difference of the
    routed and the merged prediction, divided by the first.

    Args:
        parts: the base with a set for each zone.
        merged: the same with one denoiser.
        subject: its photos are noised, with the tuning prompt.
        zones: of the sets.
        loop: runs the predictions.
    """
    repeats = -(-TRIPLES // len(subject.photos))
    latents = parts.encode_images(subject.photos).repeat(repeats, 1, 1, 1)
    triples = draw_triples(Zones(_covered(zones), zones.timesteps), len(latents), seed=0)
    texts = [subject.tuning_text] * len(latents)
    what = "predicting zone by zone"
    _, whole = measure_predictions(parts, triples, texts, latents, None, loop, BATCH, what)
    what = "predicting with one denoiser"
    rows, _ = measure_predictions(merged, triples, texts, latents, whole, loop, BATCH, what)
    found = {}
    for zone in dict.fromkeys(row["zone"] for row in rows):
        own = [row for row in rows if row["zone"] == zone]
        error, deviation = (sum(row[name] for row in own) / len(own) for name in ("float_error", "deviation"))
        found[zone] = (error, deviation / error)
    return found


def _covered(zones: Zones) -> tuple[Zone, ...]:
    """Return all zones, including the gaps where the base is used."""
    ends = [0, *(zone.stop for zone in zones.zones)]
    starts = [*(zone.start for zone in zones.zones), zones.timesteps]
    between = [Zone(f"base from {end}", end, start) for end, start in zip(ends, starts, strict=True) if end < start]
    return tuple(sorted((*zones.zones, *between), key=lambda zone: zone.start))
