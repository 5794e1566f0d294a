"""The choice of kernels for what a quantized layer computes beside its matrix product.

    dequantize        W = (q - z) s0
    affine            y = g u + b
    gradients         dg = sum(dy u),  du = g dy
    select            the row of each sample's set, and its gradient

`packed_weight`, `per_channel` and `selection` have the formulas in PyTorch: the reference, and what a CPU computes. The
module `fused` has each line above as one Triton kernel, which reads and writes every number once; on a GPU dequantizing
then moves 2.5 instead of 12 to 20 bytes a weight. Both compute in float32 and round once. `operators` are the same
kernels for `torch.compile`.

`use` chooses, for all threads of the process; AUTO is fused where tensors are on a CUDA device and Triton runs there.
Tensors elsewhere are computed by PyTorch, also with FUSED, unless TRITON_INTERPRET=1 asks for Triton's interpreter.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from logging import getLogger
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from quantbooth.quant.kernels import operators
from quantbooth.runtime.errors import UserError

__all__ = ["AUTO", "CHOICES", "EAGER", "FAKE", "FUSED", "choose", "fused_for", "require", "use"]

AUTO, EAGER, FUSED = CHOICES = ("auto", "eager", "fused")
FAKE = "fake"
"""For `use` on fake tensors, whatever their device: results of `fused` without numbers, so that a plan counts them."""
SUPPORTED = (torch.float32, torch.bfloat16, torch.float16)
_chosen = SimpleNamespace(kernels=AUTO)  # no context variable: autograd computes a GPU's backward in its own thread


def choose(choice: str) -> None:
    """Use these kernels from now on: AUTO, EAGER, FUSED or FAKE.

    Raises:
        ValueError: for another word.
        UserError: for FUSED without Triton.
    """
    if choice not in (*CHOICES, FAKE):
        raise ValueError(f"kernels must be one of {', '.join(CHOICES)}, got {choice!r}")
    if choice == FUSED and not _has_triton():
        raise UserError("fused kernels need Triton; install the package triton, or choose resources.kernels=eager")
    _chosen.kernels = choice


def require(device: torch.device) -> None:
    """Refuse kernels that were chosen and that a device cannot run.

    Raises:
        UserError: for FUSED on a device other than CUDA.
    """
    if _chosen.kernels == FUSED and not _runs_on(device, asked=True):
        raise UserError(
            f"resources.kernels=fused needs a CUDA device, the trainer computes on {device.type}; choose "
            "resources.kernels=auto, or trainer=gpu"
        )


@contextmanager
def use(choice: str) -> Iterator[None]:
    """Use these kernels inside the block; raises as `choose`."""
    before = _chosen.kernels
    choose(choice)
    try:
        yield
    finally:
        _chosen.kernels = before


def fused_for(x: Tensor, dtype: torch.dtype | None = None) -> Any:
    """Return the module `fused` where it is used for a tensor, with results in `dtype` (None: in its own), else None.

    Triton is imported here first: a CPU never needs it. Where `torch.compile` traces, it is the module `operators`,
    which has the same functions.
    """
    if not _used(x.device, dtype or x.dtype):
        return None
    return operators if torch.compiler.is_compiling() or _chosen.kernels == FAKE else _fused()


@torch.compiler.assume_constant_result
def _used(device: torch.device, dtype: torch.dtype) -> bool:
    choice = _chosen.kernels
    if choice == FAKE:
        return dtype in SUPPORTED
    if choice == EAGER or dtype not in SUPPORTED or not _runs_on(device, choice == FUSED):
        return False
    return choice == FUSED or _runs(device)


def _fused() -> Any:
    return import_module("quantbooth.quant.kernels.fused")


def _runs_on(device: torch.device, asked: bool) -> bool:
    return device.type == "cuda" or (asked and os.environ.get("TRITON_INTERPRET") == "1")


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


@cache
def _runs(device: torch.device) -> bool:
    """Return whether a kernel runs there: Triton needs a C compiler too, and a card that is new enough."""
    if not _has_triton():
        return False
    try:
        one = torch.ones(1, 1, device=device)
        return bool(_fused().affine(one, one, None, -1) == 1)
    except Exception as error:  # whatever it lacks, PyTorch computes the same
        reason = " ".join(str(error).split()) or type(error).__name__
        getLogger(__name__).warning("Triton's kernels do not run on %s, PyTorch's are used: %s", device, reason)
        return False
