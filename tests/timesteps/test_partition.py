"""The optimal division into zones, against every division there is."""

from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from quantbooth.timesteps.partition import disagreements, partition


def slow_disagreement(vectors: Tensor) -> float:
    """Return the squared distance of vectors from their mean."""
    return float((vectors - vectors.mean(0)).square().sum())


def slow_total(vectors: Tensor, borders: list[int]) -> float:
    return sum(slow_disagreement(vectors[i:j]) for i, j in pairwise(borders))


def every_division(n: int, count: int) -> list[list[int]]:
    return [[0, *inner, n] for inner in combinations(range(1, n), count - 1)]


def unit_vectors(n: int, size: int, seed: int) -> Tensor:
    drawn = torch.randn(n, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn / drawn.norm(dim=1, keepdim=True)


def test_disagreement_by_affinities_is_the_squared_distance_from_the_mean() -> None:
    vectors = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = disagreements(vectors @ vectors.T)
    for i in range(8):
        for j in range(8):
            expected = slow_disagreement(vectors[i:j]) if i < j else torch.inf
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("lengths", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("size", [1, 2, 12])
@pytest.mark.parametrize(("n", "count"), [(n, count) for n in range(1, 9) for count in range(1, n + 1)])
def test_no_other_division_disagrees_less(n: int, count: int, size: int, seed: int, lengths: float) -> None:
    vectors = unit_vectors(n, size, seed) * (1 + lengths * torch.arange(n))[:, None]
    borders = partition(vectors @ vectors.T, count)
    assert borders in every_division(n, count)
    assert slow_total(vectors, borders) == pytest.approx(
        min(slow_total(vectors, each) for each in every_division(n, count)), abs=1e-12
    )


@pytest.mark.parametrize("borders", [[0, 20], [0, 3, 20], [0, 1, 19, 20], [0, 4, 5, 12, 20]])
def test_groups_of_equal_vectors_are_found(borders: list[int]) -> None:
    groups = unit_vectors(len(borders) - 1, 30, seed=4)
    widths = torch.tensor([j - i for i, j in pairwise(borders)])
    vectors = groups.repeat_interleave(widths, dim=0).float()
    assert partition(vectors @ vectors.T, len(groups)) == borders


@pytest.mark.parametrize("count", [0, 4])
def test_more_zones_than_bins_or_none_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"\[1, 3\], got {count}"):
        partition(torch.eye(3), count)
