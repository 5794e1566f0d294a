"""Randomness by place: a generator that (seed, step, purpose) alone decide, so that a resumed run draws the same."""

import hashlib
from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader, Dataset

__all__ = ["batch_loader", "batches", "generator_for", "place_loader", "step_loader"]


def generator_for(seed: int, step: int, purpose: str) -> torch.Generator:
    """A generator for one optimizer step; nothing drawn before or elsewhere changes what it gives."""
    digest = hashlib.sha256(f"{purpose} {seed} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Steps(Dataset[int]):
    """The numbers 0 .. count - 1; stages draw their batch from the step they are at."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, step: int) -> int:
        return step


def step_loader(count: int) -> DataLoader[int]:
    """A loader with one item per optimizer step."""
    return DataLoader(Steps(count), batch_size=None)


def batches(count: int, size: int) -> list[list[int]]:
    """Return the places 0 .. count - 1 of a list, so many at a time."""
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def place_loader(count: int, batch: int) -> DataLoader[list[int]]:
    """Return a loader of `batches`."""
    return batch_loader(batches(count, batch))


def batch_loader(batches: Sequence[list[int]]) -> DataLoader[list[int]]:
    """Batches of places as they are given; processes that share them take whole ones."""
    return DataLoader(batches, batch_size=1, collate_fn=_only)  # type: ignore[arg-type]


def _only(batches: list[list[int]]) -> list[int]:
    return batches[0]
