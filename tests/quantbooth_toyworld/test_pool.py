"""Pools of rendered scenes: decided by (seed, i), cached on disk, and rendered again for another renderer."""

from pathlib import Path

import pytest
import torch

from quantbooth_toyworld import pretraining as pools
from quantbooth_toyworld.pretraining import render_pool
from quantbooth_toyworld.scenes import Rendered, render
from quantbooth_toyworld.world import Scene


def test_a_picture_depends_on_its_seed_and_place_only() -> None:
    small, large = render_pool(3, seed=4, workers=0), render_pool(5, seed=4, workers=0)
    assert torch.equal(small.images, large.images[:3])
    assert small.scenes == large.scenes[:3]
    assert not torch.equal(small.images, render_pool(3, seed=5, workers=0).images)


def test_a_finished_pool_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pool.safetensors"
    first = render_pool(80, seed=4, cache=file, workers=0)
    monkeypatch.setattr(pools, "DataLoader", None)  # nothing may be rendered in bulk again
    again = render_pool(80, seed=4, cache=file, workers=0)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.masks, again.masks)


def test_a_pool_of_another_world_is_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed renderer must not go on with the pictures of the old one."""
    file = tmp_path / "pool.safetensors"
    render_pool(8, seed=4, cache=file, workers=0)

    def brighter(scene: Scene) -> Rendered:
        drawn = render(scene)
        return Rendered(255 - drawn.image, drawn.mask, scene)

    monkeypatch.setattr(pools, "render", brighter)
    fresh = render_pool(8, seed=4, cache=file, workers=0)
    assert torch.equal(fresh.images[0], torch.from_numpy(brighter(fresh.scenes[0]).image.transpose(2, 0, 1).copy()))
