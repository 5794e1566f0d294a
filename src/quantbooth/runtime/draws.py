"""Random generators that depend on (seed, step, purpose) only, so that a resumed run draws the same numbers."""

import hashlib
from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader, Dataset

__all__ = ["batch_loader", "batches", "generator_for", "index_loader", "step_loader"]


def generator_for(seed: int, step: int, purpose: str) -> torch.Generator:
    """Return a generator for one optimizer step, independent of all earlier and other draws."""
    digest = hashlib.sha256(f"{purpose} {seed} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Steps(Dataset[int]):
    """The numbers 0 .. count - 1; training modules draw their batch by the current step."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, step: int) -> int:
        return step


def step_loader(count: int) -> DataLoader[int]:
    """Return a loader with one item per optimizer step."""
    return DataLoader(Steps(count), batch_size=None)


def batches(count: int, size: int) -> list[list[int]]:
    """Return the indices 0 .. count - 1 of a list in batches."""
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def index_loader(count: int, batch: int) -> DataLoader[list[int]]:
    """Return a loader of `batches`."""
    return batch_loader(batches(count, batch))


def batch_loader(batches: Sequence[list[int]]) -> DataLoader[list[int]]:
    """Return a loader of given batches of indices; distributed processes get complete batches."""
    return DataLoader(batches, batch_size=1, collate_fn=_only)  # type: ignore[arg-type]


def _only(batches: list[list[int]]) -> list[int]:
    return batches[0]
