"""A LoRA term on a frozen layer, y = layer(x) + s B_k A_k x, with the adapter k of each sample.

    h = A x                                all sets at once: A [K r, in], of a convolution [K r, in, kh, kw]
    h_i = 0 except in the r rows of k(i)   the base (k = 0) has none, so there y = layer(x)
                                           with shares of all sets: the r rows of set k times share_k
    y = layer(x) + s B h                   B [out, K r]

With one set this is LoRA (Hu et al. 2021, arXiv 2106.09685, eq. 3), s = alpha / r. Masking h costs K low-rank products
instead of one, but copies neither A nor B per sample, and allocates nothing of a weight's size.

With `group_size` L (QA-LoRA, Xu et al. 2023, arXiv 2309.14717) A reads the sums over groups of L inputs,

    h = A pool(x),  pool(x)_k = sum of x_i, i in group k       A [K r, in / L], of a convolution too: the same A at all
                                                                places of the kernel

so that B A is constant in a group and merges into zero points (`zero_points`).

A forward hook adds the term, so the layer, float or quantized, keeps its class and its weight. Where activations are
quantized, the term reads the unquantized x.
"""

from dataclasses import dataclass, replace
from functools import partial
from math import prod

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from quantbooth.quant.layers import QuantizedConv2d, QuantizedLinear
from quantbooth.quant.ops import Conv2dProduct, LinearProduct, Product
from quantbooth.quant.selection import SetSelection
from quantbooth.runtime.errors import UserError

__all__ = ["FOREIGN", "KINDS", "LEARNED", "Form", "adapt_", "delta", "form_of", "release_", "term"]

KINDS = (nn.Linear, nn.Conv2d, QuantizedLinear, QuantizedConv2d)
"""Classes of layers that can be adapted; subclasses are not, as they may compute something else."""
LEARNED, FOREIGN = "lora", "foreign"
"""Kinds of adapters: tuned here, one per set; loaded from a LoRA file, applied to every sample."""
POINT = Conv2dProduct((1, 1), (0, 0), (1, 1), 1)


@dataclass(frozen=True)
class Form:
    """The products and shapes of A and B that fit a layer: `down` maps x to h, `up` maps h to y.

    With `group_size`, A has a column per group of that many inputs.
    """

    down: Product
    up: Product
    inputs: tuple[int, ...]
    out: int
    group_size: int | None = None

    @property
    def repeats(self) -> int:
        """The number of weights that one number of A stands for."""
        return 1 if self.group_size is None else self.group_size * prod(self.inputs[1:])

    def shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of A and B of one set; B of a convolution is stored without its 1 x 1 kernel axes."""
        columns = self.inputs if self.group_size is None else (self.inputs[0] // self.group_size,)
        return (rank, *columns), (self.out, rank)

    def lower(self, x: Float[Tensor, "b ..."], down: Float[Tensor, "rows ..."]) -> Float[Tensor, "b ..."]:
        """Return A x, or A pool(x)."""
        if self.group_size is None:
            return self.down.apply(x, down)
        axis = self.down.channel % x.ndim
        pooled = x.unflatten(axis, (-1, self.group_size)).sum(axis + 1)
        kernel = self.inputs[1:]
        return self.down.apply(pooled, down.view(*down.shape, *[1] * len(kernel)).expand(*down.shape, *kernel))

    def spread(self, down: Float[Tensor, "r ..."]) -> Float[Tensor, "r n"]:
        """Return A with a column per weight of a row of W."""
        if self.group_size is None:
            return down.flatten(1)
        return down.repeat_interleave(self.repeats, dim=1)


def form_of(layer: nn.Module, group_size: int | None = None) -> Form:
    """Return the form of a layer of one of `KINDS`.

    Raises:
        UserError: for a grouped convolution, one whose padding is not zeros of a given size, or a group size that does
            not divide the inputs, or each part of them where they are split.
        TypeError: for a layer of another class.
    """
    form = _whole_form(layer)
    for part in getattr(layer, "split", ()) or form.inputs[:1]:
        if group_size is not None and part % group_size:
            raise UserError(
                f"tuner.group_size must divide its {part} inputs, got {group_size}; choose a smaller one, or "
                "leave the layer out by tuner.exclude"
            )
    return replace(form, group_size=group_size)


def _whole_form(layer: nn.Module) -> Form:
    if isinstance(layer, nn.Linear | QuantizedLinear):
        return Form(LinearProduct(), LinearProduct(), (layer.in_features,), layer.out_features)
    if isinstance(layer, QuantizedConv2d):
        out, *inputs = layer.shape
        return Form(_one_group(layer.product), POINT, tuple(inputs), out)
    if not isinstance(layer, nn.Conv2d):
        known = ", ".join(kind.__name__ for kind in KINDS)
        raise TypeError(f"layer must be one of {known}, got {type(layer).__name__}")
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        found = f"padding_mode={layer.padding_mode!r}, padding={layer.padding!r}"
        raise UserError(f"an adapted convolution must pad with zeros, by numbers given; got {found}")
    product = Conv2dProduct(_pair(layer.stride), _pair(layer.padding), _pair(layer.dilation), layer.groups)
    return Form(_one_group(product), POINT, (layer.in_channels, *layer.kernel_size), layer.out_channels)


def term(
    x: Float[Tensor, "b ..."],
    down: Float[Tensor, "sets r ..."],
    up: Float[Tensor, "sets out r"],
    form: Form,
    serves: Shaped[Tensor, "b sets"] | None,
) -> Float[Tensor, "b ..."]:
    """Return B_k A_k x in x's dtype (autocast's under autocast); where `serves` is None, the sum over all sets.

    `serves` says which set serves a sample, or has the share of every set.
    """
    h = form.lower(x, down.flatten(0, 1).to(x.dtype))
    if serves is not None:
        places = [len(x), *[1] * (h.ndim - 1)]
        places[form.down.channel] = -1
        rows = serves.repeat_interleave(down.shape[1], dim=1).view(places)
        h = h.masked_fill(rows == 0, 0)  # a product with 0 would keep an overflow of another sample's set
        h = (h * rows).to(h.dtype) if rows.is_floating_point() else h
    wide = up.transpose(0, 1).flatten(1).to(x.dtype)
    return form.up.apply(h, wide if form.up.channel == -1 else wide[..., None, None])


def adapt_(
    layer: nn.Module,
    kind: str,
    down: Float[Tensor, "sets r ..."],
    up: Float[Tensor, "sets out r"],
    scale: float,
    selection: SetSelection | None,
    group_size: int | None = None,
) -> None:
    """Attach `<kind>_A` and `<kind>_B` to a layer: parameters chosen by `selection`, or frozen buffers without one.

    Raises:
        RuntimeError: when the layer has an adapter of this kind already.
        UserError: when the form of the layer is not supported.
    """
    form = form_of(layer, group_size)
    if hasattr(layer, f"{kind}_A"):
        raise RuntimeError("a layer must be adapted once: call detach_ first")
    for name, values in ((f"{kind}_A", down), (f"{kind}_B", up)):
        if selection is None:
            layer.register_buffer(name, values.detach(), persistent=False)
        else:
            layer.register_parameter(name, nn.Parameter(values.detach()))
    hook = layer.register_forward_hook(partial(_with_term, kind, form, scale, selection))
    setattr(layer, f"{kind}_hook", hook)
    setattr(layer, f"{kind}_scale", scale)
    setattr(layer, f"{kind}_form", form)


def release_(layer: nn.Module, kind: str) -> None:
    """Undo `adapt_` completely."""
    getattr(layer, f"{kind}_hook").remove()
    for name in ("A", "B", "hook", "scale", "form"):
        delattr(layer, f"{kind}_{name}")


@torch.no_grad()
def delta(layer: nn.Module, kind: str, index: int) -> Float[Tensor, "out ..."] | None:
    """Return the weight s B_k A_k of one set's adapter; None for the base, or where there is no adapter."""
    if index == 0 or not hasattr(layer, f"{kind}_A"):
        return None
    down, up = (getattr(layer, f"{kind}_{name}")[index - 1].detach() for name in "AB")
    form: Form = getattr(layer, f"{kind}_form")
    return getattr(layer, f"{kind}_scale") * (up @ form.spread(down)).view(len(up), *form.inputs)


def _with_term(
    kind: str,
    form: Form,
    scale: float,
    selection: SetSelection | None,
    layer: nn.Module,
    inputs: tuple[Tensor, ...],
    y: Float[Tensor, "b ..."],
) -> Float[Tensor, "b ..."]:
    x, down, up = inputs[0], getattr(layer, f"{kind}_A"), getattr(layer, f"{kind}_B") * scale
    serves = None
    if selection is not None:
        serves = selection.checked(len(x), len(down)).to(x.device)
        if serves.ndim == 1:
            serves = serves[:, None] == 1 + torch.arange(len(down), device=x.device)
    added = term(x, down, up, form, serves).to(y.dtype)
    return y + (added if selection is None else selection.guarded(added))


def _one_group(product: Product) -> Product:
    if not product.by_channel:
        raise UserError("an adapted convolution must have one group; leave this layer out")
    return product


def _pair(window: tuple[int, ...]) -> tuple[int, int]:
    vertical, horizontal = window
    return vertical, horizontal
