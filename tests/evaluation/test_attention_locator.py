"""The attention locator: its maps are the denoiser's own attention, its boxes lie on drawn objects, misses are told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn.functional import interpolate

from quantbooth.diffusion.pretrained import load_base
from quantbooth.diffusion.schedule import Schedule
from quantbooth.evaluation.attention_locator import AttentionLocator
from quantbooth.evaluation.locators import box_overlap, boxes_of_masks, mask_overlap
from quantbooth.runtime.errors import UserError
from quantbooth_toyworld.judge_data import ScenePool, pictures, random_scenes, render_pool
from quantbooth_toyworld.shipped import base_folder as shipped


@pytest.fixture(scope="module")
def scenes() -> ScenePool:
    return render_pool(random_scenes(60, np.random.default_rng(77)))


def by_hand(folder: Path, shown: Tensor, sentence: str, tokens: list[int], steps: list[int]) -> Tensor:
    """Diffusers' explicit attention, its softmax written down layer by layer."""
    base, seen = load_base(folder, "toy"), list[Tensor]()
    for name, layer in base.denoiser.named_modules():
        if name.endswith("attn2"):
            layer.set_processor(AttnProcessor())
            scores = layer.get_attention_scores

            def noting(*given: Any, scores: Any = scores, **named: Any) -> Tensor:
                found = scores(*given, **named)
                side = round(found.shape[1] ** 0.5)
                mean = found.reshape(len(shown), -1, *found.shape[1:]).mean(1)[..., tokens].sum(-1)
                seen.append(interpolate(mean.reshape(-1, 1, side, side), (8, 8), mode="bilinear"))
                return found

            layer.get_attention_scores = noting
    z, schedule = base.encode_images(shown), Schedule(base.scheduler_config)
    noise = torch.randn(z.shape[1:], generator=torch.Generator().manual_seed(0)).expand_as(z)
    with torch.no_grad():
        for step in steps:
            t = torch.full((len(z),), step)
            base.predict(schedule.add_noise(z, noise, t), t, base.encode_prompts([sentence] * len(z)))
    return interpolate(torch.stack(seen).mean(0), shown.shape[2:], mode="bilinear")[:, 0]


def test_maps_are_the_unets_attention_to_the_class_word(scenes: ScenePool) -> None:
    shown = pictures(scenes, slice(0, 3))
    locator = AttentionLocator(shipped(), [100, 400], 0.6)
    tokens = load_base(shipped(), "toy").tokenizer(["a photo of a mug"]).input_ids[0]
    assert len(tokens) == 7  # start, a, photo, of, a, mug, end
    expected = by_hand(shipped(), shown, "a photo of a mug", [5], [100, 400])
    torch.testing.assert_close(locator.maps(shown, "mug"), expected, atol=1e-6, rtol=1e-5)


def test_looking_leaves_the_unet_as_it_was(scenes: ScenePool) -> None:
    locator = AttentionLocator(shipped(), [300], 0.6)
    locator.maps(pictures(scenes, slice(0, 1)), "mug")
    assert not any(layer._forward_pre_hooks for name, layer in locator._base.denoiser.named_modules() if name)


@pytest.mark.chain
def test_masks_lie_on_drawn_objects(scenes: ScenePool) -> None:
    """On scenes of another seed: 0.66 at this threshold; all pixels together would reach what objects cover, 0.37."""
    shown, locator = pictures(scenes, slice(None)), AttentionLocator(shipped(), [200, 750], 0.35)
    found = [locator.boxes(shown[i : i + 1], scene.class_word) for i, scene in enumerate(scenes.scenes)]
    masks = torch.cat([one.masks for one in found if one.masks is not None])
    assert mask_overlap(masks, scenes.masks).mean() > max(0.6, float(scenes.masks.float().mean()) + 0.2)
    assert torch.cat([one.found for one in found]).all()
    true = boxes_of_masks(scenes.masks, least=1)
    assert box_overlap(torch.cat([one.xyxy for one in found]), true.xyxy).mean() > 0.8


def test_boxes_do_not_depend_on_the_batch(scenes: ScenePool) -> None:
    shown, locator = pictures(scenes, slice(0, 4)), AttentionLocator(shipped(), [200], 0.6)
    together, alone = locator.maps(shown, "duck"), [locator.maps(one[None], "duck") for one in shown]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=1e-4)


def test_attention_that_tells_nothing_is_a_miss(scenes: ScenePool) -> None:
    locator = AttentionLocator(shipped(), [200], 0.6, contrast=500)
    missed = locator.boxes(pictures(scenes, slice(0, 2)), "mug")
    assert missed.found.tolist() == [False, False]
    assert missed.xyxy.tolist() == [[0, 0, 32, 32]] * 2


def test_a_flat_map_shows_no_subject_whatever_the_contrast(monkeypatch: pytest.MonkeyPatch) -> None:
    locator = AttentionLocator(shipped(), [200], 0.6, contrast=1.0)
    monkeypatch.setattr(locator, "maps", lambda pictures, _: torch.full((len(pictures), 8, 8), 0.5))
    assert locator.boxes(torch.zeros(2, 3, 8, 8), "mug").found.tolist() == [False, False]


def test_the_name_tells_weights_and_numbers(base_folder: Path) -> None:
    names = {AttentionLocator(folder, [200, 750], 0.6).name for folder in (shipped(), base_folder)}
    assert len(names) == 2
    for name in names:
        assert name.startswith("attention of base sha256:")
        assert name.endswith(" at t 200, 750, above 0.6, at least 0.5%, contrast 1.2")


def test_what_it_cannot_look_at_is_refused() -> None:
    with pytest.raises(UserError, match=r"^locator\.timesteps must be in \[0, 1000\), got 1000$"):
        AttentionLocator(shipped(), [1000], 0.5).maps(torch.zeros(1, 3, 32, 32), "mug")
    with pytest.raises(UserError, match=r"^the attention locator reads 32 x 32 pictures, got 48 x 32$"):
        AttentionLocator(shipped(), [10], 0.5).maps(torch.zeros(1, 3, 32, 48), "mug")
