"""Weights are looked at where they come in and go out: whole, finite, and not too large for their precision."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from quantbooth.diffusion.diffusers_folder import read_json
from quantbooth.runtime.errors import UserError
from quantbooth.store.files import require_name

__all__ = [
    "cast",
    "cast_module",
    "first_line",
    "is_finite",
    "read_network",
    "readable",
    "require_finite",
    "require_floats",
]

SPARE = ("position_ids", "num_batches_tracked")
"""Whole numbers beside weights: buffers that older releases of transformers saved, and counters of batch norms."""
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""Types of weights in safetensors; whole numbers are codes, whose scales no network of diffusers reads."""
OF_NONSENSE = (
    *(ValueError, RuntimeError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError),
    *(ImportError, SafetensorError, OSError),
)
"""What libraries raise when a configuration asks for a network that cannot be, or a file is damaged."""


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Answer what libraries raise when they read a folder that cannot be a network.

    Raises:
        UserError: naming the folder and their reason.
    """
    try:
        yield
    except UserError:
        raise
    except StrictDataclassError as error:
        raise UserError(f"{folder} cannot be read: {first_line(error.__cause__ or error)}") from error
    except OF_NONSENSE as error:
        raise UserError(f"{folder} cannot be read: {first_line(error)}") from error


def read_network(kind: Any, folder: Path, spare: Iterable[str] = (), **options: Any) -> Any:
    """Return a network of diffusers or transformers from its folder, in float32, or with dtype="auto" as it is stored.

    Args:
        kind: its class.
        folder: as `save_pretrained` writes it, in safetensors.
        spare: beginnings of the names of weights that may be there unused.
        options: of `from_pretrained`.

    Raises:
        UserError: when weights are missing, of another shape, unknown, or not finite, naming the first.
    """
    given = {"local_files_only": True, "use_safetensors": True, "ignore_mismatched_sizes": True, **options}
    with readable(folder):
        _require_float_files(folder)
        network, loaded = kind.from_pretrained(str(folder), output_loading_info=True, **given)
    other = sorted(mismatch[0] for mismatch in loaded["mismatched_keys"])
    lacking = sorted({*loaded["missing_keys"]} - {*other})
    known = tuple(spare)
    unread = sorted(
        k for k in loaded["unexpected_keys"] if not k.endswith(SPARE) and not (known and k.startswith(known))
    )
    faults = ((other, "has weights of another shape than its config.json says:"), (lacking, "lacks"))
    for names, fault in (*faults, (unread, "has more than a network of its kind:")):
        if names:
            raise UserError(f"{folder} {fault} {names[0]} ({len(names)} such); save the whole network, and it alone")
    require_finite(network.state_dict(), str(folder))
    return network if options.get("dtype") == "auto" else network.float()


def _require_float_files(folder: Path) -> None:
    """Refuse weights that are no floating-point numbers, which would be taken for such, and those of other folders.

    Raises:
        UserError: naming the file, the first such weight and its type, or the first such part.
    """
    for index in folder.glob("*.safetensors.index.json"):
        for part in set(map(str, read_json(index).get("weight_map", {}).values())):
            require_name(part, str(index))
    for file in sorted(folder.glob("*.safetensors")):
        require_floats(file)


def require_floats(file: Path, beginnings: tuple[str, ...] = ("",)) -> None:
    """Refuse weights that are no floating-point numbers, which would be taken for such.

    Args:
        file: in safetensors.
        beginnings: of the names of weights.

    Raises:
        UserError: naming the file, the first such weight and its type.
    """
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118  # a safetensors handle is not a mapping
            is_weight = name.startswith(beginnings) and not name.endswith(SPARE)
            if is_weight and (found := opened.get_slice(name).get_dtype()) not in FLOATS:
                raise UserError(
                    f"{file}: {name} must be of a floating-point type, found {found}; save the network before it "
                    "was quantized or converted"
                )


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(". ")


def is_finite(tensor: Tensor) -> bool:
    """Return whether all numbers are finite, without a tensor of its size: extremes show both nan and infinity."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    low, high = torch.aminmax(tensor)
    return bool(low.isfinite() & high.isfinite())


def require_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse nan and infinity.

    Raises:
        UserError: naming the first tensor that has them.
    """
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise UserError(f"{what}: {name} must be finite, found nan or infinity; take another copy of the file")


def cast(name: str, tensor: Tensor, dtype: torch.dtype, option: str) -> Tensor:
    """Return a tensor in another precision; integers stay.

    Raises:
        UserError: when a number is too large for it, naming the option that chooses it.
    """
    if not tensor.is_floating_point():
        return tensor.contiguous()
    made = tensor.to(dtype).contiguous()
    if not is_finite(made) and is_finite(tensor):
        raise UserError(f"{name!r} has numbers too large for {option}={str(dtype)[6:]}; choose float32")
    return made


def cast_module(module: Any, dtype: torch.dtype, option: str) -> Any:
    """Return a copy of a module in another precision, with a separate configuration; weights are shared if possible.

    Raises:
        UserError: as `cast`.
    """
    if module.dtype == dtype:
        return copy(module)
    made: nn.Module = deepcopy(module).to(dtype)
    for name, tensor in made.state_dict().items():
        if not is_finite(tensor):
            cast(name, module.state_dict()[name], dtype, option)
    return made
