"""Autocast on the pretended device, by the lists of CUDA: products in half precision, norms and sums in full.

Source: the list of operations in PyTorch's `torch.amp`; those that promote to the widest dtype do so on a CPU anyway.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

__all__ = ["register"]

aten = torch.ops.aten
KEY = "AutocastPrivateUse1"
HALF = (
    *(aten.linear.default, aten.matmul.default, aten.mm.default, aten.bmm.default, aten.addmm.default),
    *(aten.baddbmm.default, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    *(aten.conv_transpose2d.input, aten.scaled_dot_product_attention.default),
)
FULL = (
    *(aten.layer_norm.default, aten.group_norm.default, aten.mse_loss.default, aten.softmax.int, aten.log_softmax.int),
    *(aten.exp.default, aten.log.default, aten.pow.Tensor_Scalar, aten.rsqrt.default, aten.reciprocal.default),
    *(aten.sum.default, aten.sum.dim_IntList, aten.cumsum.default, aten.prod.default, aten.softplus.default),
)
_libraries: list[Any] = []  # what they register ends with them


def register(device: str) -> None:
    """Let autocast know the device of PyTorch's private backend, once a process."""
    others, own = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, KEY)
    for operations, dtype in ((HALF, lambda: torch.get_autocast_dtype(device)), (FULL, lambda: torch.float32)):
        for operation in operations:
            own.impl(operation.name(), partial(_run, device, operation, dtype), KEY)
    _libraries.extend((others, own))


def _run(device: str, operation: Any, dtype: Callable[[], torch.dtype], *args: Any, **kwargs: Any) -> Any:
    wanted = dtype()

    def cast(given: Any) -> Any:
        ours = isinstance(given, Tensor) and given.device.type == device and given.is_floating_point()
        return given.to(wanted) if ours and given.dtype != torch.float64 else given

    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, KEY))):
        return operation(*map(cast, args), **{name: cast(given) for name, given in kwargs.items()})
