"""The division of N bins into K adjoining zones whose members agree best, by their affinities alone.

Zone [i, j) of vectors v with affinities A_ab = <v_a, v_b> disagrees by its squared distance from its own mean m:

    d(i, j) = sum_a ||v_a - m||^2 = sum_a A_aa - 1 / (j - i) sum_ab A_ab

and the K zones with the least sum of d follow from those of K - 1 zones (Bellman 1961):

    D_k(j) = min_i D_{k-1}(i) + d(i, j)
"""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["disagreements", "partition"]


def disagreements(affinity: Float[Tensor, "n n"]) -> Float[Tensor, "m m"]:
    """Return d(i, j) of every zone [i, j) with 0 <= i < j <= n = m - 1, in float64; infinity for the others."""
    n = len(affinity)
    exact = affinity.double()
    sums, own = exact.new_zeros(n + 1, n + 1), exact.new_zeros(n + 1)
    sums[1:, 1:], own[1:] = exact.cumsum(0).cumsum(1), exact.diagonal().cumsum(0)
    corner = sums.diagonal()
    inside = corner[None, :] - sums - sums.T + corner[:, None]
    width = torch.arange(n + 1)[None, :] - torch.arange(n + 1)[:, None]
    return torch.where(width > 0, own[None, :] - own[:, None] - inside / width.clamp(min=1), torch.inf)


def partition(affinity: Float[Tensor, "n n"], count: int) -> list[int]:
    """Return the borders 0 = b_0 < ... < b_K = n of the K zones with the least disagreement, in O(n^2 K).

    Args:
        affinity: the inner products of the bins' vectors, symmetric; cosines, where these have length 1.
        count: K.

    Raises:
        ValueError: when there are fewer bins than zones, or none.
    """
    n = len(affinity)
    if not 1 <= count <= n:
        raise ValueError(f"the number of zones must be in [1, {n}], got {count}")
    cost = disagreements(affinity)
    least, starts = cost[0], []
    for _ in range(count - 1):
        least, start = (least[:, None] + cost).min(dim=0)
        starts.append(start)
    borders = [n]
    for start in reversed(starts):
        borders.append(int(start[borders[-1]]))
    return [0, *reversed(borders)]
