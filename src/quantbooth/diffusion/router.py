"""The router: a forward pre-hook of the denoiser that selects each sample's scale set by its timestep."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quantbooth.diffusion.base import Base
from quantbooth.quant.selection import SetSelection
from quantbooth.runtime.devices import sent

__all__ = ["Route", "SubjectsRoute", "route_"]

Route = Callable[[Tensor], Tensor]
"""Training timesteps, one per sample -> index of each sample's set (0 is the base, gain 1) or shares of all sets."""


class SubjectsRoute:
    """A route for the stacked sets of several subjects: those of subject s are s K + 1 to s K + K.

        index = s K + route(t), and 0 where route(t) is 0
        shares = route(t) in the columns s K to s K + K - 1, and 0 in the others

    Args:
        route: timesteps to the sets of one subject.
        sets: K, the number of sets of one subject.
        subjects: the number of subjects; a single one needs no choice.
        unconditional: whether as many further sets follow, for the unconditional predictions of guidance.
        served: the route of pictures that are drawn while tuning, where a strategy uses its sets elsewhere than it
            trains them; None is `route`.
    """

    def __init__(
        self,
        route: Route,
        sets: int,
        subjects: int = 1,
        unconditional: bool = False,
        served: Route | None = None,
    ) -> None:
        self.route, self.served, self.sets = route, served or route, sets
        self._further = subjects if unconditional else 0
        self._blocks = subjects + self._further
        self._subjects = None if subjects > 1 or unconditional else torch.zeros(1, dtype=torch.int64)
        self._untuned = False

    @contextmanager
    def untuned(self) -> Iterator[None]:
        """Use the base (set 0) for every row inside the block, however many there are."""
        self._untuned = True
        try:
            yield
        finally:
            self._untuned = False

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Use the sets inside the block as finished pictures do."""
        trained, self.route = self.route, self.served
        try:
            yield
        finally:
            self.route = trained

    def choose(self, subjects: Int[Tensor, " b"]) -> None:
        """Set the subject of each row of the batch from now on (0 is the first subject).

        A batch that is n times as long repeats these rows n times, as classifier-free guidance does. With sets for
        unconditional predictions, the first half of a batch uses them.
        """
        self._subjects = torch.cat([subjects + self._further, subjects]) if self._further else subjects.clone()

    def __call__(self, t: Tensor) -> Tensor:
        """Return the set of every row, or its shares of all sets.

        Raises:
            RuntimeError: when nothing was chosen, or the batch size is not a multiple of the number of chosen rows.
        """
        if self._untuned:
            return torch.zeros_like(t, dtype=torch.int64)
        if self._subjects is None or len(t) % len(self._subjects):
            chosen = "nothing" if self._subjects is None else f"{len(self._subjects)} rows"
            raise RuntimeError(f"a subject must be chosen for each of {len(t)} rows, got {chosen}")
        subjects = sent(self._subjects, t.device).repeat(len(t) // len(self._subjects))
        own = self.route(t)
        if own.is_floating_point():
            shares = own.new_zeros(len(t), self._blocks, self.sets)
            shares[torch.arange(len(t), device=t.device), subjects] = own
            return shares.flatten(1)
        return torch.where(own > 0, own + subjects * self.sets, own)


def route_(base: Base, route: Route, selection: SetSelection) -> RemovableHandle:
    """Attach the router to a base's denoiser, for training and sampling; return the hook's handle.

    The hook is on the network itself, so a plain diffusers pipeline of the same parts is routed too. The family's
    `training_timestep` converts network time (one number per batch or per sample, integer or fractional) to a training
    timestep. The choice stays valid until the next call, so recomputation under activation checkpointing uses the same
    sets.
    """
    family = base.family

    def choose(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample, time = family.call_of(args, kwargs)
        t = family.training_timestep(torch.as_tensor(time, device=sample.device))
        selection.choose(route(t.expand(sample.shape[0]) if t.ndim == 0 else t))

    handle: RemovableHandle = base.denoiser.register_forward_pre_hook(choose, with_kwargs=True)
    return handle
