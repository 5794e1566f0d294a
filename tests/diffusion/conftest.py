"""A random toy base, made once."""

import pytest

from quantbooth.diffusion.base import Base, frozen
from quantbooth.toyworld.models import untrained_base


@pytest.fixture(scope="session")
def words() -> list[str]:
    sentence = "a photo of red striped mug duck wearing rainbow scarf on the beach in front brick wall sks"
    return sentence.split()


@pytest.fixture(scope="session")
def base(words: list[str]) -> Base:
    return frozen(untrained_base(words, seed=0))
