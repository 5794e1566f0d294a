"""What the header of a safetensors file says of its model, by the keys of modelspec and of kohya's trainer (ss_*)."""

import re
from collections.abc import Collection, Iterator, Mapping

from quantbooth.diffusion.model import Family
from quantbooth.diffusion.schedule import Schedule

__all__ = ["OTHER_KINDS", "VELOCITY", "ZERO_SNR", "Claim", "of_architecture", "of_schedule"]

VELOCITY, ZERO_SNR = "v_pred", "ztsnr"
PREDICTIONS = {"v": "v_prediction"}
"""Modelspec's names of predictions that diffusers names otherwise."""
OTHER_KINDS = "inversion|inpaint|refiner|edit|depth|controlnet"
"""Words in the architecture of a file that is not of a text-to-image model."""
Claim = tuple[str, str, str]
"""A key, what the file says, what must be said."""


def of_schedule(names: Collection[str], header: Mapping[str, str], schedule: Schedule) -> Iterator[Claim]:
    """Return what a file says of its prediction and its noise schedule."""
    zero_snr = str(bool(schedule.scheduler.config["rescale_betas_zero_snr"]))
    if (said := header.get("modelspec.prediction_type")) is not None:
        yield "modelspec.prediction_type", PREDICTIONS.get(said, said), schedule.prediction
    if (said := header.get("ss_v_parameterization")) is not None:
        yield "ss_v_parameterization", said, str(schedule.prediction == PREDICTIONS["v"])
    if (said := header.get("ss_zero_terminal_snr")) is not None:
        yield "ss_zero_terminal_snr", said, zero_snr
    if VELOCITY in names:
        yield VELOCITY, PREDICTIONS["v"], schedule.prediction
    if ZERO_SNR in names:
        yield ZERO_SNR, "True", zero_snr


def of_architecture(header: Mapping[str, str], family: Family, other_kinds: str) -> Iterator[Claim]:
    """Return what a file says of its architecture; `other_kinds` are words in that of other models, for re.search."""
    for key, beginnings in family.architectures.items():
        if (said := header.get(key)) is not None:
            same = said.startswith(beginnings) and not re.search(other_kinds, said)
            yield key, said, said if same else " or ".join(beginnings)
