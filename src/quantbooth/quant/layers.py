"""Linear and Conv2d layers with a packed, frozen weight and trainable scale sets: channel gains and bias shifts.

The weight is three buffers (see `packed_weight`): `codes`, `scale` s0 and `zero` z; the bias is a buffer too. Trainable
parameters are None until `scale_sets.attach_` adds them; without them a layer computes the base. `input_quantizer` is
None too, unless activations are quantized: it reads x itself, before g_in, because g_in belongs to the dequantization
W = s0 (q - z) g_in.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeVar

import torch
from jaxtyping import Float, Real, UInt8
from torch import Tensor, nn

from quantbooth.quant.format import quantize
from quantbooth.quant.group_gains import grouped_product
from quantbooth.quant.observers import ScaleSearch
from quantbooth.quant.ops import Conv2dProduct, LinearProduct, Product, gained_product
from quantbooth.quant.packed_weight import Packed
from quantbooth.quant.selection import SetSelection, registered_sets, selected_rows, unregister_sets_
from quantbooth.runtime.errors import UserError

Pair = int | tuple[int, ...]
Made = TypeVar("Made", bound="QuantizedLayer")  # not Self, which no checker of single methods can read


class QuantizedLayer(nn.Module, ABC):
    """Base class of both: y = g_out * product(g_in * x, (q - z) * s0) + b + shift, with the set of each sample.

    Where there is an `input_quantizer`, x is its output (see `activations`).
    With gains by group of inputs, y = sum_k g_k * product((g_in * x)_k, W_k) + b + shift (see `group_gains`).
    `selection` describes the gains and shift, and how a set is chosen. The leading axis of x is the batch. A new
    layer has weight 0 until a state dict is loaded.
    """

    codes: UInt8[Tensor, "out width"]
    scale: Float[Tensor, "*parts out"]
    zero: Real[Tensor, "*parts out"]
    bias: Float[Tensor, " out"] | None
    gain_in: nn.Parameter | None
    gain_out: nn.Parameter | None
    gain_groups: nn.Parameter | None
    shift: nn.Parameter | None
    selection: SetSelection | None
    input_quantizer: nn.Module | None
    small_bias: bool

    def __init__(
        self, packed: Packed, inputs: int, product: Product, bias: bool, device: torch.device | str | None
    ) -> None:
        super().__init__()
        self.inputs, self.form, self.product = inputs, packed, product
        self.shape, self.bits, self.split = packed.shape, packed.bits, packed.split
        out = self.shape[0]
        self.register_buffer("codes", torch.zeros(out, packed.width, dtype=torch.uint8, device=device))
        self.register_buffer("scale", torch.ones(packed.affine_shape, device=device))
        self.register_buffer("zero", torch.zeros(packed.affine_shape, dtype=torch.uint8, device=device))
        self.register_buffer("bias", torch.zeros(out, device=device) if bias else None)
        self.register_module("input_quantizer", None)
        self.small_bias = False  # see `small_biases`
        unregister_sets_(self)

    @classmethod
    @abstractmethod
    def like(
        cls: type[Made],
        layer: nn.Module,
        bits: int,
        device: torch.device | str | None = None,
        split: tuple[int, ...] = (),
    ) -> Made:
        """Return an empty quantized layer with the configuration of a float one, its inputs split as `split` says.

        Raises:
            TypeError: when the float layer is of another class.
            UserError: when its options are not supported, or the split does not fit.
        """

    @classmethod
    def from_float(cls: type[Made], layer: nn.Module, search: ScaleSearch, split: tuple[int, ...] = ()) -> Made:
        """Quantize a float layer to the nearest codes, with the scales that `search` finds; the bias is copied."""
        weight = layer.get_parameter("weight").detach()
        made = cls.like(layer, search.grid.bits, weight.device, split)
        scale, zero = made.form.fit(weight, search)
        codes = quantize(weight, made.form.spread(scale), made.form.spread(zero), search.grid)
        return made.fill_(codes, scale, zero, layer.bias)

    def fill_(
        self: Made,
        codes: UInt8[Tensor, "out ..."],
        scale: Float[Tensor, "*parts out"],
        zero: Float[Tensor, "*parts out"],
        bias: object,
    ) -> Made:
        """Set the weight to (q - z) * s0 and the bias to a copy, if it is a tensor; return the layer itself."""
        self.codes, self.scale, self.zero = self.form.store(codes), scale, zero.to(torch.uint8)
        if isinstance(bias, Tensor):
            self.bias = bias.detach().clone()
        return self

    @torch.no_grad()
    def dequantized(self) -> Float[Tensor, "out ..."]:
        """Return the base weight (q - z) * s0 as a new float32 tensor."""
        return self.form.weight(self.codes, self.scale, self.zero, torch.float32)

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return y.

        Raises:
            RuntimeError: when sets are attached and the selection is unset or does not fit the batch.
            ValueError: when x has no batch axis.
        """
        self.check(x)
        x, batch = x if self.input_quantizer is None else self.input_quantizer(x), x.shape[0]
        g_in, b = selected_rows(self, "gain_in", batch), self._bias(batch)
        weight = (self.codes, self.scale, self.zero, self.form, self.product)
        if (g := selected_rows(self, "gain_groups", batch)) is not None:
            return grouped_product(x, g_in, g, b, *weight)
        return gained_product(x, g_in, selected_rows(self, "gain_out", batch), b, *weight, self.small_bias)

    @property
    def channel(self) -> int:
        """The channel axis of x and of y."""
        return self.product.channel

    @abstractmethod
    def check(self, x: Tensor) -> None:
        """Raise ValueError when x does not have the shape that the layer takes."""

    def extra_repr(self) -> str:
        """Return shape and bits."""
        sets = ", ".join(f"{name}={len(rows)}" for name, rows in registered_sets(self).items()) or "none"
        split = f", split={self.split}" if self.split else ""
        return f"shape={self.shape}, bits={self.bits}{split}, bias={self.bias is not None}, sets: {sets}"

    def _bias(self, batch: int) -> Float[Tensor, "#b out"] | None:
        """Return the bias plus the shift of each sample's set; without shifts, one row for all samples."""
        shift = selected_rows(self, "shift", batch)
        if self.bias is None or shift is None:
            return shift if self.bias is None else self.bias[None]
        return self.bias + shift


class QuantizedLinear(QuantizedLayer):
    """A quantized linear layer on x [b, ..., in]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bits: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        split: tuple[int, ...] = (),
    ) -> None:
        super().__init__(Packed(bits, (outputs, inputs), split), inputs, LinearProduct(), bias, device)
        self.in_features, self.out_features = inputs, outputs

    @classmethod
    def like(
        cls, layer: nn.Module, bits: int, device: torch.device | str | None = None, split: tuple[int, ...] = ()
    ) -> "QuantizedLinear":
        """Return an empty layer with the configuration of an nn.Linear."""
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"layer must be an nn.Linear, got {type(layer).__name__}")
        return cls(layer.in_features, layer.out_features, bits, layer.bias is not None, device, split)

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless x is [b, ..., in]."""
        if x.ndim < 2:
            raise ValueError(f"x must be [b, ..., in], got shape {tuple(x.shape)}")


class QuantizedConv2d(QuantizedLayer):
    """A quantized convolution on x [b, in, h, w] with zero padding; any stride, padding, dilation, groups."""

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
        split: tuple[int, ...] = (),
    ) -> None:
        if inputs % groups or outputs % groups:
            raise ValueError(f"groups must divide {inputs} inputs and {outputs} outputs, got {groups}")
        if split and groups != 1:
            raise UserError(f"inputs can be split where every output sees them all, got groups={groups}")
        packed = Packed(bits, (outputs, inputs // groups, *_pair(kernel)), split)
        product = Conv2dProduct(_pair(stride), _pair(padding), _pair(dilation), groups)
        super().__init__(packed, inputs, product, bias, device)
        self.in_channels, self.out_channels, self.kernel_size = inputs, outputs, _pair(kernel)

    @classmethod
    def like(
        cls, layer: nn.Module, bits: int, device: torch.device | str | None = None, split: tuple[int, ...] = ()
    ) -> "QuantizedConv2d":
        """Return an empty layer with the configuration of an nn.Conv2d, which must pad with zeros symmetrically."""
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
            split,
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
