"""Linear and Conv2d layers with a packed, frozen weight and one gain per output channel and scale set.

The weight is three buffers: `codes` (packed), `scale` s0 and `zero` z; the bias is a buffer too. Gains are absent
until `scale_sets.attach_` puts them in; without them a layer is the base layer.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import prod
from typing import Self

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from quantbooth.errors import UserError
from quantbooth.quant.functional import Packed, gained_product
from quantbooth.quant.grid import quantize
from quantbooth.quant.packing import pack, packed_width
from quantbooth.quant.products import Conv2dProduct, LinearProduct, Product
from quantbooth.quant.scale_search import ScaleSearch
from quantbooth.quant.selection import Selection

Pair = int | tuple[int, ...]


class QuantizedLayer(nn.Module, ABC):
    """What both kinds share: y = g * product(x, (q - z) * s0) + b, with g of the set that serves the sample.

    `gain` is [K, out]; row k - 1 is set k, and set 0 is the base, g = 1, which is not stored. The leading axis of x is
    the batch. As built, every weight is 0 and waits for a state dict.
    """

    codes: UInt8[Tensor, "out width"]
    scale: Float[Tensor, " out"]
    zero: UInt8[Tensor, " out"]
    bias: Float[Tensor, " out"] | None
    gain: nn.Parameter | None
    selection: Selection | None

    def __init__(
        self, shape: tuple[int, ...], bits: int, product: Product, bias: bool, device: torch.device | str | None
    ) -> None:
        super().__init__()
        out, width = shape[0], packed_width(bits, prod(shape[1:]))
        self.shape, self.bits = shape, bits
        self._packed, self._product = Packed(bits, shape), product
        self.register_buffer("codes", torch.zeros(out, width, dtype=torch.uint8, device=device))
        self.register_buffer("scale", torch.ones(out, device=device))
        self.register_buffer("zero", torch.zeros(out, dtype=torch.uint8, device=device))
        self.register_buffer("bias", torch.zeros(out, device=device) if bias else None)
        self.register_parameter("gain", None)
        self.selection = None

    @classmethod
    @abstractmethod
    def like(cls, layer: nn.Module, bits: int, device: torch.device | str | None = None) -> Self:
        """Return an empty quantized layer with the form of a float one.

        Raises:
            TypeError: when the float layer is of another kind.
            UserError: when its options are not covered.
        """

    @classmethod
    def from_float(cls, layer: nn.Module, search: ScaleSearch) -> Self:
        """Quantize a float layer to the nearest codes, with the scales that `search` finds; the bias is copied."""
        weight, bias = layer.get_parameter("weight").detach(), layer.bias
        made = cls.like(layer, search.grid.bits, weight.device)
        rows = weight.flatten(1).float()
        scale, zero = search(rows)
        made.codes = pack(quantize(rows, scale, zero, search.grid), made.bits)
        made.scale, made.zero = scale, zero.to(torch.uint8)
        if isinstance(bias, Tensor):
            made.bias = bias.detach().clone()
        return made

    @torch.no_grad()
    def dequantized(self) -> Float[Tensor, "out ..."]:
        """Return the base weight (q - z) * s0, newly formed, for looking at."""
        return self._packed.weight(self.codes, self.scale, self.zero, torch.float32)

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return y.

        Raises:
            RuntimeError: when gains are attached and the selection is unset or does not fit the batch.
            ValueError: when x has no batch axis.
        """
        self.check(x)
        gain, bias, packed, product = self._gains(x.shape[0]), self.bias, self._packed, self._product
        return gained_product(x, gain, bias, self.codes, self.scale, self.zero, packed, product)

    @abstractmethod
    def check(self, x: Tensor) -> None:
        """Raise ValueError when x is not of the layer's form."""

    def extra_repr(self) -> str:
        """Return shape and bits."""
        sets = 0 if self.gain is None else len(self.gain)
        return f"shape={self.shape}, bits={self.bits}, bias={self.bias is not None}, sets={sets}"

    def _gains(self, batch: int) -> Float[Tensor, "b out"] | None:
        if self.gain is None:
            return None
        if self.selection is None:
            raise RuntimeError("a layer with gains must have a selection: put both in with scale_sets.attach_")
        index = self.selection.checked(batch, len(self.gain))
        return torch.cat([self.gain.new_ones(1, self.shape[0]), self.gain])[index]


class QuantizedLinear(QuantizedLayer):
    """A linear layer on x [b, ..., in]."""

    def __init__(
        self, inputs: int, outputs: int, bits: int, bias: bool = True, device: torch.device | str | None = None
    ) -> None:
        super().__init__((outputs, inputs), bits, LinearProduct(), bias, device)
        self.in_features, self.out_features = inputs, outputs

    @classmethod
    def like(cls, layer: nn.Module, bits: int, device: torch.device | str | None = None) -> Self:
        """Return an empty layer with the form of an nn.Linear."""
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"layer must be an nn.Linear, got {type(layer).__name__}")
        return cls(layer.in_features, layer.out_features, bits, layer.bias is not None, device)

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless x is [b, ..., in]."""
        if x.ndim < 2:
            raise ValueError(f"x must be [b, ..., in], got shape {tuple(x.shape)}")


class QuantizedConv2d(QuantizedLayer):
    """A convolution on x [b, in, h, w] with zero padding; any stride, padding, dilation, groups."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Pair,
        bits: int,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        if inputs % groups or outputs % groups:
            raise ValueError(f"groups must divide {inputs} inputs and {outputs} outputs, got {groups}")
        product = Conv2dProduct(_pair(stride), _pair(padding), _pair(dilation), groups)
        super().__init__((outputs, inputs // groups, *_pair(kernel)), bits, product, bias, device)
        self.in_channels, self.out_channels, self.kernel_size = inputs, outputs, _pair(kernel)

    @classmethod
    def like(cls, layer: nn.Module, bits: int, device: torch.device | str | None = None) -> Self:
        """Return an empty layer with the form of an nn.Conv2d; it must pad with zeros, on both sides alike."""
        if not isinstance(layer, nn.Conv2d):
            raise TypeError(f"layer must be an nn.Conv2d, got {type(layer).__name__}")
        if layer.padding_mode != "zeros" or layer.padding == "same":
            raise UserError(
                "a quantized convolution must pad with zeros, by numbers given; "
                f"got padding_mode={layer.padding_mode!r}, padding={layer.padding!r}: exclude this layer"
            )
        padding: tuple[int, ...] = (0, 0) if isinstance(layer.padding, str) else layer.padding
        return cls(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            bits,
            layer.stride,
            padding,
            layer.dilation,
            layer.groups,
            layer.bias is not None,
            device,
        )

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless x is [b, in, h, w]."""
        if x.ndim != 4:
            raise ValueError(f"x must be [b, in, h, w], got shape {tuple(x.shape)}")


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """Yield every quantized layer of a model with its name, in the order of the model."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            yield name, module


def _pair(size: Pair) -> tuple[int, int]:
    vertical, horizontal = (size, size) if isinstance(size, int) else size
    return vertical, horizontal
