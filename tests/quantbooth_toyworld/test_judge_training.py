"""Augmentations and losses of the judges against simple twins."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from quantbooth_toyworld.judge_data import random_scenes, render_pool
from quantbooth_toyworld.judge_training import attribute_loss, contrastive_loss, disturbed, mask_loss, moved


def test_disturbed_pictures_stay_pictures_and_some_stay_as_they_were() -> None:
    images = render_pool(random_scenes(200, np.random.default_rng(0))).images.float() / 255
    found, _ = disturbed(images, torch.Generator().manual_seed(0))
    again, _ = disturbed(images, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)
    assert found.amin() >= 0
    assert found.amax() <= 1
    same = (found == images).flatten(1).all(dim=1).float().mean().item()
    assert same == pytest.approx(0.4, abs=0.12)


def test_the_grid_moves_a_mask_with_its_picture() -> None:
    images = torch.zeros(50, 3, 32, 32)
    images[:, :, 8:24, 8:24] = 1
    found, grid = disturbed(images, torch.Generator().manual_seed(0))
    mask = moved(images[:, :1], grid)[:, 0].round()
    bright = (found.mean(dim=1) > 0.5).float()
    assert (mask != images[:, 0]).flatten(1).any(dim=1).float().mean() > 0.4
    assert (mask == bright).float().mean() > 0.98


def test_contrastive_loss_equals_its_slow_twin() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (normalize(torch.randn(4, 6, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    true = torch.eye(4, dtype=torch.bool)
    true[0, 1] = true[2, 1] = True
    total = 0.0
    for rows, columns, table in ((images, texts, true), (texts, images, true.T)):
        for i in range(4):
            cosines = [5.0 * float(rows[i] @ columns[j]) for j in range(4)]
            log_sum = math.log(sum(math.exp(c) for c in cosines))
            wanted = [j for j in range(4) if table[i, j]]
            total -= sum(cosines[j] - log_sum for j in wanted) / len(wanted) / 8
    found = contrastive_loss(images.float(), texts.float(), torch.tensor(5.0), true)
    torch.testing.assert_close(found, torch.tensor(total, dtype=torch.float32))


def test_mask_loss_is_zero_for_certainty_and_its_gradient_mends_errors() -> None:
    goal = torch.zeros(2, 8, 8)
    goal[:, 2:6, 2:6] = 1
    torch.testing.assert_close(mask_loss(40 * (2 * goal - 1), goal), torch.tensor(0.0))
    logits = torch.zeros(2, 8, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(mask_loss(logits, goal), logits)
    assert (slope[goal == 1] < 0).all()
    assert (slope[goal == 0] > 0).all()


def test_attribute_loss_by_hand_counts_the_emblem_twice() -> None:
    logits = {"class_word": torch.zeros(3, 4), "emblem": torch.zeros(3, 2)}
    goals = {"class_word": torch.tensor([0, 1, 2]), "emblem": torch.tensor([0, 1, 1])}
    torch.testing.assert_close(attribute_loss(logits, goals), torch.tensor(math.log(4) + 2 * math.log(2)))
