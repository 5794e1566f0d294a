"""Named tensors that must fit: the same names and shapes, or a refusal that names the first difference."""

from collections.abc import Mapping

from jaxtyping import Shaped
from torch import Tensor

from quantbooth.errors import UserError

__all__ = ["require_fit"]


def require_fit(
    expected: Mapping[str, Shaped[Tensor, "..."]],
    got: Mapping[str, Shaped[Tensor, "..."]],
    of: str,
    other: str,
) -> None:
    """Compare names and shapes.

    Args:
        expected: tensors as they must be; their values do not count.
        got: tensors that are given.
        of: what `expected` belongs to, in words.
        other: what `got` is, in words.

    Raises:
        UserError: naming the first difference.
    """
    for name, tensor in expected.items():
        if name not in got:
            raise UserError(f"{other} does not fit {of}: {name!r} is missing")
        if got[name].shape != tensor.shape:
            shapes = f"must have shape {tuple(tensor.shape)}, got {tuple(got[name].shape)}"
            raise UserError(f"{other} does not fit {of}: {name!r} {shapes}")
    for name in got:
        if name not in expected:
            raise UserError(f"{other} does not fit {of}: {name!r} is not in {of}")
