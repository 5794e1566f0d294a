"""What quant=as_stored does not go with: options of a quantization that another package made before, and its codes."""

from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig

from quantbooth.kinds import shown
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.used import options_in

__all__ = ["is_stored", "require_own_layers"]

NEUTRAL: Mapping[str, Any] = {
    **{"bits": None, "act_bits": None, "softmax_bits": None, "symmetric": False, "split_skips": False},
    **{"group_size": None},
    **{"include": ["*"], "exclude": []},
}
"""The options of quant=as_stored, all of them without effect."""


def is_stored(settings: Mapping[str, Any]) -> bool:
    """Return whether layers keep the codes that another package stored, quant=as_stored.

    Raises:
        UserError: for an option of quantization, or one of calibration that was typed: there is none.
    """
    quant = settings["quant"]
    if not quant.get("stored"):  # options of earlier versions have none
        return False
    for key, value in NEUTRAL.items():
        if quant.get(key, value) != value:
            raise UserError(
                f"quant.{key}={shown(quant[key])} has no effect on quant=as_stored, whose weights are quantized "
                "already; leave it out"
            )
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    for word, option in options_in(words):
        if option.partition(".")[0] == "calibration":
            raise UserError(f"{word} has no effect on quant=as_stored, which is not calibrated; leave it out")
    return True


def require_own_layers(settings: Mapping[str, Any], what: str) -> None:
    """Refuse a command, or an option and its value, that needs float weights or packed codes of our own.

    Raises:
        UserError: for quant=as_stored.
    """
    if is_stored(settings):
        raise UserError(
            f"{what} needs float weights or packed codes of our own, which quant=as_stored does not have; choose the "
            "base before it was quantized, and another quant"
        )
