"""Random generators: decided by (seed, step, purpose) only; loaders only count."""

from itertools import product

import torch

from quantbooth.runtime.draws import batch_loader, batches, generator_for, index_loader, step_loader


def test_the_same_place_draws_the_same_whatever_was_drawn_before() -> None:
    torch.manual_seed(1)
    first = torch.randn(5, generator=generator_for(3, 7, "tune"))
    torch.manual_seed(2)
    torch.randn(100, generator=generator_for(3, 6, "tune"))
    assert torch.equal(first, torch.randn(5, generator=generator_for(3, 7, "tune")))


def test_every_other_place_draws_something_else() -> None:
    places = list(product([0, 1, 12], [0, 1, 2, 12], ["tune", "base"]))
    draws = {tuple(torch.randint(2**40, (2,), generator=generator_for(*place)).tolist()) for place in places}
    assert len(draws) == len(places)


def test_a_global_random_state_is_neither_read_nor_moved() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    torch.rand(3, generator=generator_for(0, 0, "tune"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_loader_counts_the_steps() -> None:
    assert [int(step) for step in step_loader(4)] == [0, 1, 2, 3]


def test_a_place_loader_names_every_place_once_in_order() -> None:
    assert list(index_loader(5, 2)) == batches(5, 2) == [[0, 1], [2, 3], [4]]
    assert list(index_loader(2, 25)) == [[0, 1]]


def test_a_batch_loader_gives_the_batches_as_they_are() -> None:
    assert list(batch_loader([[4, 1], [7], []])) == [[4, 1], [7], []]
    assert len(batch_loader([])) == 0
