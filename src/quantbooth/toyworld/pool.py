"""Many rendered scenes at once: picture i of a pool depends on (seed, i) only, and a finished pool is kept on disk."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from quantbooth.toyworld.scenes import Scene, random_scene, render

__all__ = ["Pool", "render_pool"]

WITNESSES = 64


@dataclass(frozen=True)
class Pool:
    """Pictures beside the scenes they show."""

    images: UInt8[Tensor, "n 3 h w"]
    masks: UInt8[Tensor, "n h w"]
    scenes: tuple[Scene, ...]

    def __len__(self) -> int:
        return len(self.scenes)


class _Renders(Dataset[tuple[Tensor, Tensor]]):
    """Map-style view that renders on demand, in worker processes."""

    def __init__(self, scenes: tuple[Scene, ...]) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rendered = render(self.scenes[index])
        image = torch.from_numpy(np.ascontiguousarray(rendered.image.transpose(2, 0, 1)))
        return image, torch.from_numpy(rendered.mask.astype(np.uint8))


def scenes_of(count: int, seed: int) -> tuple[Scene, ...]:
    """Scenes 0 .. count - 1 of the pre-training distribution; the personal subjects' combinations never occur."""
    return tuple(random_scene(np.random.default_rng([seed, index])) for index in range(count))


def render_pool(count: int, seed: int, cache: Path | None = None, workers: int = 2) -> Pool:
    """Render a pool, or read it from the cache file when a finished one of this seed, size and world is there."""
    scenes = scenes_of(count, seed)
    if cache is not None and cache.is_file():
        stored = load_file(cache)
        if stored["images"].shape[0] == count and int(stored["seed"]) == seed and _of_this_world(stored, scenes):
            return Pool(stored["images"], stored["masks"], scenes)
    loader = DataLoader(_Renders(scenes), batch_size=500, num_workers=workers)
    batches = list(track(loader, description=f"rendering {count} scenes", total=len(loader)))
    images, masks = (torch.cat(part) for part in zip(*batches, strict=True))
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(".partial")
        save_file({"images": images, "masks": masks, "seed": torch.tensor(seed)}, partial)
        partial.replace(cache)
    return Pool(images, masks, scenes)


def _of_this_world(stored: dict[str, Tensor], scenes: tuple[Scene, ...]) -> bool:
    """Whether the first pictures of a stored pool are what the renderer draws today."""
    fresh = _Renders(scenes[:WITNESSES])
    return all(torch.equal(fresh[i][0], stored["images"][i]) for i in range(len(fresh)))
