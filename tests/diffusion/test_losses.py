"""Losses against slow twins, and refusals."""

import torch

from quantbooth.diffusion.objective import with_prior_preservation


def test_loss_is_the_dreambooth_sum_of_two_means() -> None:
    errors = torch.tensor([1.0, 3.0, 10.0, 20.0, 30.0])
    is_prior = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])
    assert float(with_prior_preservation(errors, is_prior, 0.5)) == 2.0 + 0.5 * 20.0


def test_without_class_pictures_only_the_subject_counts() -> None:
    assert float(with_prior_preservation(torch.tensor([1.0, 3.0]), torch.zeros(2), 1.0)) == 2.0
