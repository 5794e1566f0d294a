"""Training of a judge: reproducible by seed, decreasing loss, and weights in the stored precision."""

import numpy as np
import pytest
import torch

from quantbooth_toyworld.judge_data import random_scenes, render_pool
from quantbooth_toyworld.judge_recipes import train_locator, train_oracle, train_scorer
from quantbooth_toyworld.judge_training import JudgeTraining, LocatorTraining, Recipe, fit
from quantbooth_toyworld.judges import ToyLocator

FEW = Recipe(scenes=40, steps=3, batch=8, rate=2e-3)


@pytest.mark.parametrize("train", [train_scorer, train_locator, train_oracle])
@pytest.mark.chain
def test_equal_seeds_train_equal_judges_and_others_do_not(train) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    judges = [train(seed, FEW, held_out=100, progress=False) for seed in (0, 0, 1)]
    (one, figures), (again, same_figures), (other, _) = judges
    assert figures == pytest.approx(same_figures, abs=0)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_trained_judge_is_frozen_and_exact_in_16_bits() -> None:
    oracle, _ = train_oracle(0, FEW, held_out=100, progress=False)
    assert not oracle.training
    for parameter in oracle.parameters():
        assert not parameter.requires_grad
        assert torch.equal(parameter, parameter.half().float())


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    pool = render_pool(random_scenes(64, np.random.default_rng(0)))
    training = LocatorTraining(ToyLocator((4, 8), least=10), pool, Recipe(64, 30, 16, 1e-2), seed=0)
    rows = torch.arange(64)
    before = training.loss(rows, torch.Generator().manual_seed(0)).item()
    fit(training, progress=False)
    training.judge.train()
    assert training.loss(rows, torch.Generator().manual_seed(0)).item() < 0.9 * before


def test_the_abstract_training_cannot_be_made() -> None:
    with pytest.raises(TypeError):
        JudgeTraining(ToyLocator((4, 8), 1), render_pool(random_scenes(1, np.random.default_rng(0))), FEW, 0)  # type: ignore[abstract]
