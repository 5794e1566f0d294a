"""Differences of pictures: SSIM against a float64 loop over windows, PSNR by hand, equal pictures, refusals."""

import math

import pytest
import torch
from torch import Tensor

from quantbooth.evaluation.scores import mean_squared_error, psnr, ssim


def slow_ssim(one: Tensor, other: Tensor) -> float:
    """Wang et al. 2004, eq. 13, in float64, over the window of 11 x 11 around every pixel; mirrored at the border."""
    line = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    weight = torch.outer(line, line) / line.sum() ** 2
    values = []
    wide = [
        torch.nn.functional.pad(picture[None].double(), (5, 5, 5, 5), mode="reflect")[0] for picture in (one, other)
    ]
    for a, b in zip(*wide, strict=True):
        for i in range(a.shape[0] - 10):
            for j in range(a.shape[1] - 10):
                x, y = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
                mx, my = (weight * x).sum(), (weight * y).sum()
                vx, vy = (weight * x * x).sum() - mx**2, (weight * y * y).sum() - my**2
                cov = (weight * x * y).sum() - mx * my
                top = (2 * mx * my + 0.01**2) * (2 * cov + 0.03**2)
                values.append(float(top / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2))))
    return sum(values) / len(values)


def test_ssim_equals_the_slow_twin(generator: torch.Generator) -> None:
    pictures = torch.rand(3, 3, 20, 17, generator=generator)
    others = (pictures + 0.2 * torch.randn(pictures.shape, generator=generator)).clamp(0, 1)
    expected = [slow_ssim(one, other) for one, other in zip(pictures, others, strict=True)]
    torch.testing.assert_close(ssim(pictures, others), torch.tensor(expected), atol=2e-4, rtol=0)


def test_equal_pictures_are_exactly_alike(generator: torch.Generator) -> None:
    pictures = torch.rand(2, 3, 32, 32, generator=generator)
    assert ssim(pictures, pictures).tolist() == [1.0, 1.0]
    assert mean_squared_error(pictures, pictures).tolist() == [0.0, 0.0]


def test_one_picture_gives_one_number_and_a_pair_does_not_depend_on_its_batch(generator: torch.Generator) -> None:
    one, other = torch.rand(2, 4, 3, 16, 16, generator=generator).unbind()
    alone = torch.cat([ssim(one[k : k + 1], other[k : k + 1]) for k in range(4)])
    assert alone.shape == (4,)
    torch.testing.assert_close(alone, ssim(one, other))


def test_squared_error_and_psnr_by_hand() -> None:
    error = mean_squared_error(torch.full((1, 3, 11, 11), 0.6), torch.full((1, 3, 11, 11), 0.5))
    assert float(error) == pytest.approx(0.01)
    assert psnr(0.01) == pytest.approx(20.0)
    assert psnr(1.0) == 0.0
    assert psnr(0.0) == math.inf


@pytest.mark.usefixtures("unchecked")
def test_what_a_number_would_hide_is_refused() -> None:
    fine = torch.zeros(2, 3, 16, 16)
    with pytest.raises(ValueError, match="both must have one shape"):
        ssim(fine, fine[:1])
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        mean_squared_error(fine, fine + 2)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(fine[..., :8], fine[..., :8])
    with pytest.raises(ValueError, match="must be >= 0"):
        psnr(-0.1)
