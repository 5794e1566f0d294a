"""Contrasts: pairs by (seed, i) that differ in every named attribute."""

import pytest

from quantbooth.data.questions import GENERAL, Contrast, contrasts_of, general_contrasts
from quantbooth.runtime.errors import UserError
from quantbooth_toyworld.captions import words
from quantbooth_toyworld.questions import full_contrasts


def test_every_attribute_is_named_and_differs() -> None:
    for pair in full_contrasts(50, seed=3):
        assert set(pair.attributes) == {"context", "class_word", "colour", "pattern", "accessory"}
        for before, after in pair.attributes.values():
            assert before != after
            assert before in pair.first
            assert after in pair.second
        assert {*pair.first.split(), *pair.second.split()} <= set(words())


def test_a_pair_depends_on_its_seed_and_place_only() -> None:
    assert full_contrasts(3, seed=3) == full_contrasts(5, seed=3)[:3]
    assert full_contrasts(3, seed=3) != full_contrasts(3, seed=4)


def test_general_pairs_are_neighbours_and_go_round_with_further_seeds() -> None:
    pairs = general_contrasts(len(GENERAL) + 1, seed=7)
    assert (pairs[0].first, pairs[0].second) == GENERAL[:2]
    assert pairs[len(GENERAL) - 1].second == GENERAL[0]
    assert [pair.seed for pair in pairs] == [7] * len(GENERAL) + [8]


def test_a_pair_of_one_sentence_is_refused() -> None:
    with pytest.raises(UserError, match="pair"):
        contrasts_of([["a dog", "a dog"]], 2, 0)


def test_attributes_must_differ_too() -> None:
    with pytest.raises(UserError, match="must differ"):
        Contrast("a red dog", "a red cat", 0, {"colour": ("red", "red")})
