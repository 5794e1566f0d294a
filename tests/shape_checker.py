"""The checker of annotations that pytest hands to jaxtyping: beartype, an int being a float as PEP 484 has it.

The option `--jaxtyping-packages` takes a plain name only where it names several packages (jaxtyping 0.3).
"""

from beartype import BeartypeConf, beartype

__all__ = ["check"]

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
