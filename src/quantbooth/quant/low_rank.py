"""A LoRA term on a frozen layer, y = layer(x) + s B_k A_k x, with the adapter k of each sample.

    h = A x                                all sets at once: A [K r, in], of a convolution [K r, in, kh, kw]
    h_i = 0 except in the r rows of k(i)   the base (k = 0) has none, so there y = layer(x)
                                           with shares of all sets: the r rows of set k times share_k
    y = layer(x) + s B h                   B [out, K r]

With one set this is LoRA (Hu et al. 2021, arXiv 2106.09685, eq. 3), s = alpha / r. Masking h costs K low-rank products
instead of one, but copies neither A nor B per sample, and allocates nothing of a weight's size.

A forward hook adds the term, so the layer, float or quantized, keeps its class and its weight. Where activations are
quantized, the term reads the unquantized x.
"""

from dataclasses import dataclass
from functools import partial

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
    """The products and shapes of A and B that fit a layer: `down` maps x to h, `up` maps h to y."""

    down: Product
    up: Product
    inputs: tuple[int, ...]
    out: int

    def shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of A and B of one set; B of a convolution is stored without its 1 x 1 kernel axes."""
        return (rank, *self.inputs), (self.out, rank)


def form_of(layer: nn.Module) -> Form:
    """Return the form of a layer of one of `KINDS`.

    Raises:
        UserError: for a grouped convolution, or one whose padding is not zeros of a given size.
        TypeError: for a layer of another class.
    """
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
    h = form.down.apply(x, down.flatten(0, 1).to(x.dtype))
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
) -> None:
    """Attach `<kind>_A` and `<kind>_B` to a layer: parameters chosen by `selection`, or frozen buffers without one.

    Raises:
        RuntimeError: when the layer has an adapter of this kind already.
        UserError: when the form of the layer is not supported.
    """
    form = form_of(layer)
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


def release_(layer: nn.Module, kind: str) -> None:
    """Undo `adapt_` completely."""
    getattr(layer, f"{kind}_hook").remove()
    for name in ("A", "B", "hook", "scale"):
        delattr(layer, f"{kind}_{name}")


@torch.no_grad()
def delta(layer: nn.Module, kind: str, index: int) -> Float[Tensor, "out ..."] | None:
    """Return the weight s B_k A_k of one set's adapter; None for the base, or where there is no adapter."""
    if index == 0 or not hasattr(layer, f"{kind}_A"):
        return None
    down, up = (getattr(layer, f"{kind}_{name}")[index - 1].detach() for name in "AB")
    return getattr(layer, f"{kind}_scale") * (up @ down.flatten(1)).view(len(up), *down.shape[1:])


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
