"""What tables say of settings whose activations are quantized: that those integers are simulated."""

import re
from collections.abc import Iterable

__all__ = ["simulated"]


def simulated(quants: Iterable[str]) -> str | None:
    """A sentence that names them; None where the activations of all are float.

    Args:
        quants: names of settings, which end in a8, a6, ... where activations have such bits.
    """
    named = list(dict.fromkeys(quant for quant in quants if re.search(r"a\d+$", quant)))
    if not named:
        return None
    return (
        f"{', '.join(named)} - activations: simulated integers, whole numbers held as floats, so neither speed nor "
        "memory of an integer product is shown; the codes of weights are packed."
    )
