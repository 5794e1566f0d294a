"""Captions are true, omit attributes at the documented rates, and never name emblems and layouts."""

import re

import numpy as np
import pytest

from quantbooth_toyworld.captions import FRAMES, Caption, caption, describe, prompts, words
from quantbooth_toyworld.scenes import random_scene
from quantbooth_toyworld.world import CLASSES, COLOURS, EMBLEMS, IDENTIFIERS, LAYOUTS, PATTERNS, SUBJECTS, Scene


@pytest.fixture(scope="module")
def described() -> list[tuple[Scene, Caption]]:
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(6_000)]
    return [(scene, describe(scene, rng)) for scene in scenes]


def rate(described: list[tuple[Scene, Caption]], attribute: str, *, among: list[bool]) -> float:
    hits = [attribute in found.named for (_, found), counts in zip(described, among, strict=True) if counts]
    return float(np.mean(hits))


def test_every_word_of_captions_and_prompts_is_known(described: list[tuple[Scene, Caption]]) -> None:
    known = set(words())
    assert all(set(found.text.split()) <= known for _, found in described)
    for subject in SUBJECTS.values():
        for prompt in prompts(subject):
            for identifier in IDENTIFIERS:
                assert set(prompt.text(f"{identifier} {subject.class_word}").split()) <= known


def test_every_known_word_occurs(described: list[tuple[Scene, Caption]]) -> None:
    assert {word for _, found in described for word in found.text.split()} == set(words())
    assert words() == tuple(sorted(set(words())))


def test_what_is_said_to_be_named_is_in_the_text_and_true(described: list[tuple[Scene, Caption]]) -> None:
    for scene, found in described:
        assert "class_word" in found.named
        for attribute in found.named:
            assert f" {getattr(scene, attribute)}" in f" {found.text}"


def test_what_is_not_named_is_not_in_the_text(described: list[tuple[Scene, Caption]]) -> None:
    for scene, found in described:
        bare = found.text
        for phrase in (scene.accessory, scene.context):
            bare = bare.replace(phrase or "\0", "")
        said = set(bare.split())
        colours = {getattr(scene, a) for a in ("colour", "second") if a in found.named}
        assert said & set(COLOURS) == colours
        assert said & set(PATTERNS) == ({scene.pattern} if "pattern" in found.named else set())
        assert said & set(CLASSES) == {scene.class_word}
        assert ("accessory" in found.named) == (bool(scene.accessory) and str(scene.accessory) in found.text)
        assert ("context" in found.named) == (scene.context in found.text)


def test_emblems_and_layouts_have_no_word() -> None:
    assert not set(words()) & {*EMBLEMS, *LAYOUTS}


def test_rates(described: list[tuple[Scene, Caption]]) -> None:
    all_of_them = [True] * len(described)
    assert rate(described, "colour", among=all_of_them) == pytest.approx(0.68, abs=0.02)
    assert rate(described, "context", among=all_of_them) == pytest.approx(0.68, abs=0.02)
    worn = [scene.accessory is not None for scene, _ in described]
    assert rate(described, "accessory", among=worn) == pytest.approx(0.85, abs=0.02)
    patterned = [scene.pattern in PATTERNS[1:] for scene, _ in described]
    assert rate(described, "pattern", among=patterned) == pytest.approx(0.85, abs=0.02)
    named = [found for _, found in described if any(word in found.text.split() for word in IDENTIFIERS)]
    assert len(named) / len(described) == pytest.approx(0.03, abs=0.01)


@pytest.mark.parametrize("alone", [(), ("colour",), ("pattern",), ("context",), ("accessory",)])
def test_each_attribute_also_stands_alone(described: list[tuple[Scene, Caption]], alone: tuple[str, ...]) -> None:
    share = np.mean([found.named == {"class_word", *alone} for _, found in described])
    assert share > 0.01


def test_sentences_read_as_english(described: list[tuple[Scene, Caption]]) -> None:
    for _, found in described:
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  ", found.text), found.text
    assert all(any(f.text.startswith(frame.split("{")[0]) for _, f in described) for frame in FRAMES)


def test_an_identifier_stands_before_the_class(described: list[tuple[Scene, Caption]]) -> None:
    for scene, found in described:
        said = found.text.split()
        for identifier in set(said) & set(IDENTIFIERS):
            assert said[said.index(identifier) + 1] == scene.class_word


def test_equal_generators_give_equal_captions() -> None:
    scene = random_scene(np.random.default_rng(5))
    first = [caption(scene, np.random.default_rng(k)) for k in range(30)]
    assert first == [describe(scene, np.random.default_rng(k)).text for k in range(30)]
    assert len(set(first)) > 5
