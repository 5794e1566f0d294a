"""The two linear maps a layer can be: a matrix product and a convolution, each with its transpose in x."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class Product(ABC):
    """A linear map with a weight, and its transpose; `channel` is the axis of y that counts output channels."""

    channel: int

    @property
    @abstractmethod
    def by_channel(self) -> bool:
        """Whether an output channel sees every input, so that some rows of the weight give some channels of y."""

    @abstractmethod
    def apply(self, x: Float[Tensor, "b ..."], weight: Float[Tensor, "out ..."]) -> Float[Tensor, "b ..."]:
        """Return product(x, W)."""

    @abstractmethod
    def transpose(
        self, grad: Float[Tensor, "b ..."], weight: Float[Tensor, "out ..."], x_shape: Sequence[int]
    ) -> Float[Tensor, "b ..."]:
        """Return product^T(grad, W), of shape x_shape."""


@dataclass(frozen=True)
class LinearProduct(Product):
    """x W^T on [b, ..., in]."""

    channel = -1
    by_channel = True

    def apply(self, x: Float[Tensor, "b ... in"], weight: Float[Tensor, "out in"]) -> Float[Tensor, "b ... out"]:
        """Return x W^T."""
        return F.linear(x, weight)

    def transpose(
        self, grad: Float[Tensor, "b ... out"], weight: Float[Tensor, "out in"], x_shape: Sequence[int]
    ) -> Float[Tensor, "b ... in"]:
        """Return grad W."""
        return grad @ weight


@dataclass(frozen=True)
class Conv2dProduct(Product):
    """W * x on [b, in, h, w]; pairs are (vertical, horizontal)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    channel = 1

    @property
    def by_channel(self) -> bool:
        """Whether there is one group."""
        return self.groups == 1

    def apply(
        self, x: Float[Tensor, "b in h w"], weight: Float[Tensor, "out in_per_group kh kw"]
    ) -> Float[Tensor, "b out h2 w2"]:
        """Return W * x."""
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def transpose(
        self, grad: Float[Tensor, "b out h2 w2"], weight: Float[Tensor, "out ..."], x_shape: Sequence[int]
    ) -> Float[Tensor, "b in h w"]:
        """Return the transposed convolution; of x only the shape counts, so an empty tensor stands in for it."""
        x = grad.new_empty(x_shape)
        only_dx = (True, False, False)
        backward = torch.ops.aten.convolution_backward
        window = (self.stride, self.padding, self.dilation)
        dx: Tensor = backward(grad, x, weight, None, *window, False, (0, 0), self.groups, only_dx)[0]
        return dx
