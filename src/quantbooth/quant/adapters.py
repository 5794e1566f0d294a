"""LoRA adapters of a whole model: attach, detach, read and load the low-rank terms of its layers (see `low_rank`).

    <layer>.lora_A   [K, r, in]    or of a convolution [K, r, in, kh, kw]; random at the start
    <layer>.lora_B   [K, out, r]   0 at the start, so that the output does not change yet

Set k is row k - 1, chosen per sample by `SetSelection`; set 0, the base, adds nothing. The state that `read` returns
has the scale alpha / r folded into B, so names and shapes describe it completely.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantbooth.quant.layers import QuantizedLayer
from quantbooth.quant.low_rank import FOREIGN, KINDS, LEARNED, Form, adapt_, form_of, release_
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import matching, of_layer
from quantbooth.runtime.errors import UserError

__all__ = [
    "ATTENTION",
    "Factors",
    "Sets",
    "adapted",
    "add_",
    "attach_",
    "detach_",
    "distance",
    "layers",
    "likeness",
    "pairs",
    "parameters",
    "read",
    "require_forms",
    "require_shapes",
    "scaled",
    "serve_",
    "targets",
]

Sets = dict[str, Float[Tensor, "sets ..."]]
Factors = tuple[Float[Tensor, "_r ..."], Float[Tensor, "_out _r"]]
"""A and B of one layer, the scale folded into B."""
Stacked = tuple[Float[Tensor, "sets _r ..."], Float[Tensor, "sets _out _r"]]
"""A and B of one layer for all sets; `require_shapes` checks that they fit each other and the layer."""
ATTENTION = ("*.to_q", "*.to_k", "*.to_v", "*.to_out.0")
"""The usual target modules: attention's projections, as in the LoRA paper and in diffusers' training scripts."""


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return every layer that can be adapted, by name."""
    return {name: module for name, module in model.named_modules() if type(module) in KINDS}


def targets(model: nn.Module, include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Return the names of the float and quantized layers that match an include and no exclude pattern.

    Raises:
        UserError: for a pattern that matches none, or patterns that leave none.
    """
    return matching(model, include, exclude, KINDS, "a Linear or Conv2d layer")


def attach_(
    model: nn.Module,
    names: Sequence[str],
    count: int,
    rank: int,
    scale: float,
    selection: SetSelection,
    generator: torch.Generator,
    times: int = 1,
    group_size: int | None = None,
) -> None:
    """Attach `count` adapters to each layer, repeated `times` times, with B = 0 (float32, trainable).

    A is uniform in +-1 / sqrt(fan in), Kaiming's bound with a = sqrt(5), the initialization of `nn.Linear` and of
    PEFT's A.

    Args:
        model: owner of the layers.
        names: of the layers.
        count: K.
        rank: r.
        scale: alpha / r.
        selection: shared by the whole model.
        generator: initializes A, on the CPU.
        times: repetitions of the same K adapters, one per subject.
        group_size: inputs of a group whose sum A reads (QA-LoRA); None reads each input.

    Raises:
        UserError: naming the layer whose form is not supported; nothing is attached then.
        RuntimeError: when a layer has adapters already.
    """
    found = layers(model)
    for name, form in {name: _form(found[name], name, group_size) for name in names}.items():
        down, up = form.shapes(rank)
        bound = prod(form.inputs) ** -0.5
        drawn = torch.empty(count, *down).uniform_(-bound, bound, generator=generator).to(_device(found[name]))
        drawn = torch.cat([drawn] * times)
        adapt_(found[name], LEARNED, drawn, drawn.new_zeros(len(drawn), *up), scale, selection, group_size)


def serve_(
    model: nn.Module,
    sets: Mapping[str, Float[Tensor, "sets ..."]],
    selection: SetSelection,
    group_size: int | None = None,
) -> None:
    """Attach adapters that `read` returned to a model without adapters; the inverse of `read`.

    Raises:
        UserError: naming the first layer that the model does not have, or the first shape that does not fit.
    """
    found = layers(model)
    for name, (down, up) in (held := pairs(sets)).items():
        if name not in found:
            raise UserError(f"the adapters do not fit the model: it has no layer {name!r}")
        require_shapes(found[name], name, (down[0], up[0]), "the adapters", group_size)
    for name, (down, up) in held.items():
        device = _device(found[name])
        adapt_(found[name], LEARNED, down.float().to(device), up.float().to(device), 1.0, selection, group_size)


def add_(model: nn.Module, factors: Mapping[str, Sequence[Factors]]) -> None:
    """Add the sum of frozen low-rank terms to layers, for every sample, the base's included.

    Sum_j B_j A_j = [B_1 B_2 ...] [A_1; A_2; ...], so a layer gets one term whose rank is the sum of the ranks.

    Raises:
        UserError: naming the first layer that a term does not fit; nothing is added then.
        RuntimeError: when a layer has such a term already.
    """
    found = layers(model)
    for name, several in factors.items():
        for pair in several:
            require_shapes(found[name], name, pair, "the LoRA")
    for name, several in factors.items():
        device = _device(found[name])
        down = torch.cat([pair[0].float() for pair in several])[None].to(device)
        up = torch.cat([pair[1].float() for pair in several], dim=1)[None].to(device)
        adapt_(found[name], FOREIGN, down, up, 1.0, None)


def detach_(model: nn.Module, kind: str = LEARNED) -> None:
    """Remove all adapters of a kind."""
    for _, layer in adapted(model, kind):
        release_(layer, kind)


def adapted(model: nn.Module, kind: str = LEARNED) -> Iterator[tuple[str, nn.Module]]:
    """Yield every layer that has an adapter of a kind, with its name, in the order of the model."""
    for name, layer in layers(model).items():
        if hasattr(layer, f"{kind}_A"):
            yield name, layer


def parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return A and B of every adapted layer, for an optimizer.

    Raises:
        RuntimeError: when no adapters are attached.
    """
    found = [getattr(layer, f"{LEARNED}_{part}") for _, layer in adapted(model) for part in "AB"]
    if not found:
        raise RuntimeError("adapters must be attached: call attach_ first")
    return found


def distance(model: nn.Module) -> Float[Tensor, ""]:
    """Return the sum over layers and sets of ||s B A||^2 = s^2 sum((B^T B) * (A A^T)); B A is never formed."""
    squares = []
    for _, layer in adapted(model):
        scale: float = getattr(layer, f"{LEARNED}_scale")
        a, b = getattr(layer, f"{LEARNED}_A").flatten(2), getattr(layer, f"{LEARNED}_B")
        form: Form = getattr(layer, f"{LEARNED}_form")
        squares.append(scale**2 * form.repeats * ((b.mT @ b) * (a @ a.mT)).sum())
    return torch.stack(squares).sum()


def read(model: nn.Module) -> Sets:
    """Return a copy of all adapters by name, the scale folded into B, in the order of the model.

    Raises:
        RuntimeError: when no adapters are attached.
    """
    parameters(model)
    sets: Sets = {}
    for name, layer in adapted(model):
        scale: float = getattr(layer, f"{LEARNED}_scale")
        sets[f"{name}.{LEARNED}_A"] = getattr(layer, f"{LEARNED}_A").detach().clone()
        sets[f"{name}.{LEARNED}_B"] = getattr(layer, f"{LEARNED}_B").detach() * scale
    return sets


def scaled(sets: Mapping[str, Float[Tensor, "sets ..."]], shares: Float[Tensor, " sets"]) -> Sets:
    """Return adapters of which that of set k adds the share s_k: B becomes s_k B."""
    return {
        name: rows * shares[:, None, None].to(rows) if name.endswith(f".{LEARNED}_B") else rows
        for name, rows in sets.items()
    }


def likeness(model: nn.Module, names: Sequence[str], count: int, rank: int, group_size: int | None = None) -> Sets:
    """Return meta tensors with the names and shapes that `read` gives after `attach_`."""
    found, made = layers(model), {}
    for name in names:
        for part, shape in zip("AB", _form(found[name], name, group_size).shapes(rank), strict=True):
            made[f"{name}.{LEARNED}_{part}"] = torch.empty(count, *shape, device="meta")
    return made


def pairs(sets: Mapping[str, Tensor]) -> dict[str, Stacked]:
    """Return A and B of all sets by layer.

    Raises:
        UserError: naming the first tensor that is neither A nor B, or whose partner is missing.
    """
    for name in sets:
        half, _, part = name.rpartition("_")
        if not half.endswith(f".{LEARNED}") or part not in ("A", "B"):
            raise UserError(f"{name!r} is not a parameter of an adapter")
        if f"{half}_A" not in sets or f"{half}_B" not in sets:
            raise UserError(f"the adapters are incomplete: {name!r} has no counterpart")
    names = [name.removesuffix(f".{LEARNED}_A") for name in sets if name.endswith("_A")]
    return {name: (sets[f"{name}.{LEARNED}_A"], sets[f"{name}.{LEARNED}_B"]) for name in names}


def require_forms(model: nn.Module, names: Sequence[str], group_size: int | None) -> None:
    """Check that layers can be adapted.

    Raises:
        UserError: naming the first that cannot.
    """
    found = layers(model)
    for name in names:
        _form(found[name], name, group_size)


def _form(layer: nn.Module, name: str, group_size: int | None = None) -> Form:
    with of_layer(name):
        return form_of(layer, group_size)


def require_shapes(
    layer: nn.Module, name: str, pair: tuple[Tensor, Tensor], what: str, group_size: int | None = None
) -> None:
    """Check that A and B of one set have the shapes of the layer, at any rank.

    Raises:
        UserError: with the expected and the found shapes.
    """
    expected, got = _form(layer, name, group_size).shapes(len(pair[0])), (pair[0].shape, pair[1].shape)
    if got != expected:
        must, found = (" and ".join(str(tuple(shape)) for shape in shapes) for shapes in (expected, got))
        raise UserError(f"{what} must have A and B of {must} for {name!r}, got {found}")


def _device(layer: nn.Module) -> torch.device:
    return (layer.scale if isinstance(layer, QuantizedLayer) else layer.get_parameter("weight")).device
