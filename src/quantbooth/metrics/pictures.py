"""Differences between two pictures of the same noise: SSIM, mean squared error, PSNR."""

import math

from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from quantbooth.metrics.encoders import check_pictures

__all__ = ["mean_squared_error", "psnr", "ssim"]

WINDOW = 11


def ssim(pictures: Float[Tensor, "b 3 h w"], others: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Structural similarity of each pair, 1 for equal pictures (Wang et al. 2004): Gaussian windows of 11 x 11 pixels
    with sigma 1.5 around every pixel, the picture mirrored at its border, values in [0, 1], mean over pixels, channels.

    Raises:
        ValueError: shapes differ, values leave [0, 1], or a side is shorter than a window.
    """
    _check(pictures, others)
    if min(pictures.shape[2:]) < WINDOW:
        raise ValueError(f"pictures must be at least {WINDOW} pixels wide and high, got {tuple(pictures.shape[2:])}")
    found = structural_similarity_index_measure(pictures, others, data_range=1.0, reduction="none")
    if not isinstance(found, Tensor):
        raise TypeError(f"one similarity per pair was expected, got {type(found).__name__}")
    return found


def mean_squared_error(pictures: Float[Tensor, "b 3 h w"], others: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Mean over channels and pixels of the squared difference of each pair, values in [0, 1]."""
    _check(pictures, others)
    return (pictures - others).square().mean(dim=(1, 2, 3))


def psnr(error: float) -> float:
    """10 log10(1 / error) in dB, for values in [0, 1]; infinite for equal pictures.

    Give it the mean of many pictures' squared errors: a single pair of equal pictures would make a mean of dB infinite.

    Raises:
        ValueError: for a negative error.
    """
    if error < 0:
        raise ValueError(f"a squared error must be >= 0, got {error}")
    return math.inf if error == 0 else -10 * math.log10(error)


def _check(pictures: Tensor, others: Tensor) -> None:
    check_pictures(pictures)
    check_pictures(others)
    if pictures.shape != others.shape:
        raise ValueError(f"both must have one shape, got {tuple(pictures.shape)} and {tuple(others.shape)}")
