"""Products with a packed weight that is formed as floats piece by piece, a few output channels at a time.

On a CPU memory of a piece's size is found again, where a whole weight of tens of megabytes is asked of the system anew
for every product, which can cost more than the product itself. So pieces are faster where weights are large, and the
largest of a model no longer decides how much memory a step takes. On other devices, and for groups, the weight is one
piece.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from quantbooth.quant.packed_weight import Packed
from quantbooth.quant.products import Product

__all__ = ["PIECE", "PackedProduct"]

PIECE = 1 << 21
"""Weights of a piece: 8 MB of float32."""


@dataclass(frozen=True)
class PackedProduct:
    """A product with the weight that these codes, scales and zero points stand for."""

    packed: Packed
    product: Product
    codes: UInt8[Tensor, "out width"]
    scale: Float[Tensor, "*parts out"]
    zero: UInt8[Tensor, "*parts out"]

    def apply(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return product(x, W)."""
        parts = [self.product.apply(x, piece) for _, piece in self._pieces(x.dtype)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, self.product.channel)

    def transpose(self, du: Float[Tensor, "b ..."], x_shape: Sequence[int]) -> Float[Tensor, "b ..."]:
        """Return product^T(du, W), of shape x_shape: the sum over pieces of W and the channels of du they made."""
        parts = (
            self.product.transpose(du.narrow(self.product.channel, start, len(piece)), piece, x_shape)
            for start, piece in self._pieces(du.dtype)
        )
        return reduce(Tensor.add_, parts)

    def _pieces(self, dtype: torch.dtype) -> Iterator[tuple[int, Float[Tensor, "rows ..."]]]:
        """Yield rows of W, newly formed, each with its first output channel."""
        apart = self.codes.device.type == "cpu" and self.product.by_channel
        for rows in self.packed.pieces(PIECE if apart else prod(self.packed.shape)):
            yield rows.start, self.packed.weight(self.codes[rows], self.scale[..., rows], self.zero[..., rows], dtype)
