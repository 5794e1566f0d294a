"""Calibrations against each other at the same bits: how large the one's deviation from float is beside the other's."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from jaxtyping import Float

from quantbooth.artifacts.damage import Damage
from quantbooth.metrics.intervals import relative_increase
from quantbooth.reporting.damage_study import DamageStudy
from quantbooth.reporting.markdown import markdown

__all__ = ["ratio_table"]

SEED = 0


def ratio_table(study: DamageStudy) -> str | None:
    """A row for each pair of settings that differ in calibration only; None where there is no pair."""
    zones = list(study.reference.record.zones)
    rows = [
        [f"{study.label(one)} / {study.family(other)}", *(_ratio(one, other, zone) for zone in zones)]
        for one, other in _pairs(study)
    ]
    return markdown(["deviation, ratio", *zones], rows) if rows else None


def _pairs(study: DamageStudy) -> Iterator[tuple[Damage, Damage]]:
    """The later of two settings first."""
    for other, one in combinations(study.settings, 2):
        same = (one.record.quant, one.record.left_float) == (other.record.quant, other.record.left_float)
        if same and study.family(one) != study.family(other):
            yield one, other


def _ratio(one: Damage, other: Damage, zone: str) -> str:
    """Mean deviation of the one over that of the other on the same triples, with its 95 % interval over triples."""
    found = relative_increase(_deviations(one, zone), _deviations(other, zone), np.random.default_rng(SEED))
    return f"{1 + found.mean:.2f} [{1 + found.low:.2f}, {1 + found.high:.2f}]"


def _deviations(damage: Damage, zone: str) -> Float[np.ndarray, " n"]:
    rows = damage.predictions
    return rows.loc[rows["zone"] == zone, "deviation"].to_numpy()
