"""A device in CI without a device: its tensors hold CPU tensors, and what CUDA refuses or waits for is seen here.

    with on_device() as looks:              # trainers of commands run on it
        model.to(DEVICE)(x.to(DEVICE))
        looks                               # what waited for the device, or was sent to it: by kind and line

All tensors of an operation are on one device, or it raises; as on CUDA, a CPU tensor without axes may join a pointwise
operation, CPU indices may index, and copies may cross. A blocking copy waits in either direction. Numbers are those of
the CPU. It knows devices, not kernels, memory or speed.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import safetensors.torch as files
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from pretend_autocast import register

__all__ = ["DEVICE", "SENT", "Looks", "on_device"]

NAME = "pretend"
DEVICE = f"{NAME}:0"
READ, TO_CPU, MASK, TO_DEVICE, SENT = "reads a value", "copies to the CPU", "counts a mask", "copies to it", "sends"
aten = torch.ops.aten
CROSSING = {aten._to_copy.default, aten.copy_.default}
READING = {aten.index.Tensor, aten._unsafe_index.Tensor}
PUTTING = {aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
COUNTING = {aten.nonzero.default, aten.masked_select.default, aten._unique2.default}


class Looks(Counter[tuple[str, str]]):
    """How often the program waited for the device, or sent it something without waiting: by kind and line.

    Attributes:
        steps: of each step of the last training but its last one, from its beginning to that of the next.
    """

    steps: list["Looks"]

    @property
    def waits(self) -> "Looks":
        return Looks({look: count for look, count in self.items() if look[0] != SENT})

    def since(self, before: "Looks") -> "Looks":
        return Looks(self - before)


_looks = Looks()


class Pretend(Tensor):
    """A tensor on the device; `raw` is its CPU tensor."""

    raw: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls: type["Pretend"], raw: Tensor, requires_grad: bool = False) -> "Pretend":
        layout: dict[str, Any] = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype}
        made: Pretend = Tensor._make_wrapper_subclass(
            cls, raw.size(), **layout, device=torch.device(DEVICE), requires_grad=requires_grad
        )
        made.raw = raw
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Pretend({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(operation, args, kwargs or {})

    def tolist(self) -> Any:
        _look(READ)
        return self.raw.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() first")


class _Created(TorchDispatchMode):
    """Makes what is asked for on the device."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


def _look(kind: str) -> None:
    """Note the innermost line of the package, else of a library."""
    frame, outer = sys._getframe(1), ""
    while frame is not None:
        name = frame.f_code.co_filename
        if "/src/quantbooth" in name:
            outer = f"{name.rpartition('/src/')[2]}:{frame.f_lineno} {frame.f_code.co_name}"
            break
        if not outer and "/torch/" not in name and name != __file__:
            outer = f"{name.rpartition('site-packages/')[2]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    _looks[kind, outer] += 1


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: one.detach().cpu() for name, one in tensors.items()}


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for leaf in tree:
            yield from _tensors(leaf)


def _mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(tree, list | tuple):
        return type(tree)(_mapped(leaf, change) for leaf in tree)
    return change(tree)


def _raw(leaf: Any) -> Any:
    return leaf.raw if isinstance(leaf, Pretend) else leaf


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    found = [*_tensors(args), *_tensors(tuple(kwargs.values()))]
    ours = [one for one in found if isinstance(one, Pretend)]
    target = None if (asked := kwargs.get("device")) is None else torch.device(asked).type
    if not ours and target != NAME:
        return operation(*args, **kwargs)
    if operation is aten._has_compatible_shallow_copy_type.default:  # nn.Module.to asks; then it swaps
        return False
    _require_one_device(operation, args, found, ours)
    _note(operation, args, kwargs, target if ours or found else None)
    given = {key: _mapped(value, _raw) for key, value in kwargs.items()}
    if target == NAME:
        given["device"] = torch.device("cpu")
    made = operation(*_mapped(args, _raw), **given)
    if operation is aten.copy_.default or (operation._schema.is_mutable and operation._schema.name.endswith("_")):
        return args[0] if operation._schema.returns else None
    if target == "cpu":
        return made
    known = {id(one.raw): one for one in ours}

    def wrapped(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        return known[id(one)] if id(one) in known else Pretend(one)

    return _mapped(made, wrapped)


def _require_one_device(operation: Any, args: Any, found: list[Tensor], ours: list[Pretend]) -> None:
    others = [one for one in found if not isinstance(one, Pretend)]
    if not ours or not others or operation in CROSSING:
        return
    if operation in READING | PUTTING:
        allowed = isinstance(args[0], Pretend) and all(
            isinstance(value, Pretend) or value.ndim == 0 for value in _tensors(args[2:3])
        )
    else:
        allowed = torch.Tag.pointwise in operation.tags and all(one.ndim == 0 for one in others)
    if not allowed:
        shapes = [(tuple(one.shape), one.device.type) for one in found]
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {DEVICE} and cpu! "
            f"({operation}, {shapes})"
        )


def _note(operation: Any, args: Any, kwargs: dict[str, Any], target: str | None) -> None:
    """Note what CUDA would wait for, or send."""
    if operation is aten._local_scalar_dense.default or operation is aten.equal.default:
        _look(READ)
    elif operation in COUNTING:
        _look(MASK)
    elif operation in READING | PUTTING:
        masks = [one for one in _tensors(args[1]) if one.dtype == torch.bool]
        if masks and not (operation in PUTTING and args[2].numel() == 1):  # that is a masked_fill
            _look(MASK)
        if any(not isinstance(one, Pretend) for one in _tensors(args[1])):
            _look(TO_DEVICE)
    elif operation is aten.copy_.default and isinstance(args[0], Pretend) != isinstance(args[1], Pretend):
        _crossed(isinstance(args[0], Pretend), len(args) > 2 and args[2])
    elif operation is aten._to_copy.default and target is not None:
        inside = isinstance(args[0], Pretend)
        if inside != (target == NAME):
            _crossed(not inside, kwargs.get("non_blocking", False))


def _crossed(to_device: bool, non_blocking: bool) -> None:
    _look(TO_CPU if not to_device else SENT if non_blocking else TO_DEVICE)


class _Backend:
    """torch.pretend: what PyTorch asks the module of a backend."""

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    is_available = is_initialized = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    manual_seed = manual_seed_all = staticmethod(lambda seed: None)
    get_rng_state = staticmethod(lambda device=0: torch.empty(0, dtype=torch.uint8))
    set_rng_state = staticmethod(lambda state, device=0: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])
    synchronize = staticmethod(lambda device=None: None)


class _Steps(Callback):
    """Keeps what was noted from the beginning of each training step to that of the next."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began: Looks | None = None
        _looks.steps = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.began is not None:
            _looks.steps.append(_looks.since(self.began))
        self.began = Looks(_looks)


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """Take the device as it is."""


def _trainer(**settings: Any) -> Trainer:
    """Return Lightning's trainer of these settings, on the device."""
    settings["callbacks"] = [_Steps(), *settings.get("callbacks", [])]
    for name in ("accelerator", "devices"):
        settings.pop(name, None)
    if str(settings.get("precision", "32-true")).endswith("-mixed"):
        settings["plugins"] = [*settings.get("plugins", []), MixedPrecision(settings.pop("precision"), NAME)]
    strategy = SingleDeviceStrategy(torch.device(DEVICE), accelerator=_Accelerator())
    return Trainer(**settings, strategy=strategy)


def _no_gradient(mode: bool) -> AbstractContextManager[Any]:
    """Replace inference mode, which tensors that wrap others do not know."""
    return torch.no_grad() if mode else nullcontext()


_state = {"known": False}


@contextmanager
def on_device() -> Iterator[Looks]:
    """Let tensors be on the device, and the trainers of commands run on it; yields what was noted."""
    if not _state["known"]:  # once a process
        _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
        register(NAME)
        _state["known"] = True
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch, _Created():
        patch.setattr("quantbooth.runtime.lightning.Trainer", _trainer)
        write = files._flatten_as_ptr  # of a GPU's tensors it makes copies
        patch.setattr(files, "_flatten_as_ptr", lambda tensors, *more: write(_copied(tensors), *more))
        patch.setattr(torch._C, "_InferenceMode", _no_gradient)
        torch.__future__.set_swap_module_params_on_conversion(True)  # modules move in place, as to CUDA
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) is seen
        _looks.clear()
        try:
            yield _looks
        finally:
            torch._C._set_only_lift_cpu_tensors(False)
            torch.__future__.set_swap_module_params_on_conversion(swaps)
