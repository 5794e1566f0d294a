"""What a module inside a denoiser is given and what it gives, caught on the way; the call ends there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Given", "caught_inputs", "caught_output"]


@dataclass(frozen=True)
class Given:
    """Arguments of a call."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class _Enough(Exception):
    """Ends a call from inside."""


@torch.no_grad()
def caught_inputs(module: nn.Module, call: Callable[[], Any]) -> Given:
    """What `module` is given when `call` runs.

    Raises:
        ValueError: when the call never reaches it.
    """
    found: list[Given] = []

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(Given(args, kwargs))
        raise _Enough

    return _run(module.register_forward_pre_hook(note, with_kwargs=True), call, found)


@torch.no_grad()
def caught_output(module: nn.Module, call: Callable[[], Any]) -> Tensor:
    """What `module` gives when `call` runs.

    Raises:
        ValueError: when the call never reaches it.
    """
    found: list[Tensor] = []

    def note(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        found.append(output)
        raise _Enough

    return _run(module.register_forward_hook(note), call, found)


def _run(hook: Any, call: Callable[[], Any], found: list[Any]) -> Any:
    try:
        call()
    except _Enough:
        return found[0]
    finally:
        hook.remove()
    raise ValueError("the call must reach the module whose inputs or output are wanted, and it did not")
