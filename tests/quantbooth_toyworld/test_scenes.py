"""Pictures are decided by their scene, masks by the object, and subjects' combinations never leak into pre-training."""

import hashlib
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from quantbooth_toyworld.paint import PAINT
from quantbooth_toyworld.scenes import random_scene, render
from quantbooth_toyworld.world import (
    ACCESSORIES,
    CLASSES,
    COLOURS,
    CONTEXTS,
    EMBLEMS,
    LAYOUTS,
    PATTERNS,
    SUBJECTS,
    Scene,
)

MUG = Scene("mug", "blue", "red", "half", "on a wooden floor", None, "star", 0.5, 0.5, 0.75, 2.0, 7)


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng) for _ in range(count)]


def test_a_scene_decides_its_bytes() -> None:
    for scene in scenes(20):
        first, again = render(scene), render(replace(scene))
        assert first.image.tobytes() == again.image.tobytes()
        assert first.mask.tobytes() == again.mask.tobytes()


def test_the_world_is_the_one_the_shipped_base_was_trained_on() -> None:
    drawn = hashlib.sha256(b"".join(render(scene).image.tobytes() for scene in scenes(50)))
    assert drawn.hexdigest() == "a85f870b87867f41c0b868e84243bf954075ad1ec7e218f29b8a778a1c67fbc1"


def test_shapes_and_types() -> None:
    rendered = render(MUG)
    assert rendered.image.shape == (32, 32, 3)
    assert rendered.image.dtype == np.uint8
    assert rendered.mask.shape == (32, 32)
    assert rendered.mask.dtype == np.bool_
    assert rendered.scene == MUG


def test_equal_generators_give_equal_scenes() -> None:
    assert scenes(50, seed=3) == scenes(50, seed=3)
    assert scenes(50, seed=3) != scenes(50, seed=4)


@pytest.mark.parametrize("class_word", CLASSES)
def test_the_mask_is_where_the_context_does_not_show(class_word: str) -> None:
    """Over pictures that differ in context alone, a pixel that never changes is object, one that changes a lot not."""
    scene = replace(MUG, class_word=class_word)
    pictures = np.stack([render(replace(scene, context=c)).image.astype(int) for c in CONTEXTS])
    spread = np.ptp(pictures, axis=0).max(axis=-1)
    mask = render(scene).mask
    assert mask[spread == 0].all()
    assert not mask[spread > 200].any()
    assert 0.2 < mask.mean() < 0.6


@pytest.mark.parametrize("class_word", CLASSES)
def test_the_body_colour_changes_nothing_outside_the_object(class_word: str) -> None:
    scene = replace(MUG, class_word=class_word, pattern="plain", emblem=None)
    blue, green = render(scene), render(replace(scene, colour="green"))
    changed = (blue.image != green.image).any(axis=-1)
    touched = np.pad(blue.mask, 1)
    near = sum(touched[1 + i : 33 + i, 1 + j : 33 + j].astype(int) for i in (-1, 0, 1) for j in (-1, 0, 1)) > 0
    assert not changed[~near].any()
    assert changed[blue.mask].mean() > 0.6


def test_the_mask_knows_nothing_of_colours_pattern_emblem_or_context() -> None:
    mask = render(MUG).mask
    for change in (
        {"colour": "white"},
        {"second": "black"},
        {"pattern": "dotted"},
        {"emblem": None},
        {"context": "at night"},
        {"seed": 8},
    ):
        assert (render(replace(MUG, **change)).mask == mask).all()


@pytest.mark.parametrize("worn", ACCESSORIES)
@pytest.mark.parametrize("class_word", CLASSES)
def test_an_accessory_shows_and_only_takes_from_the_mask(class_word: str, worn: str) -> None:
    scene = replace(MUG, class_word=class_word, colour="pink", pattern="plain", emblem=None)  # no accessory is pink
    bare, dressed = render(scene), render(replace(scene, accessory=worn))
    assert not (dressed.mask & ~bare.mask).any()
    changed = (bare.image != dressed.image).any(axis=-1)
    assert np.ptp(np.nonzero(changed)[1]) + 1 >= 9
    assert changed.sum() >= 40
    assert changed[bare.mask & ~dressed.mask].all()


@pytest.mark.parametrize("size", [0.70, 0.80])
@pytest.mark.parametrize("emblem", EMBLEMS)
def test_an_emblem_is_eight_pixels_across_and_within_the_object(emblem: str, size: float) -> None:
    for class_word in CLASSES:
        scene = replace(MUG, class_word=class_word, size=size, tilt=0.0, pattern="plain", emblem=None)
        bare, marked = render(scene), render(replace(scene, emblem=emblem))
        rows, columns = np.nonzero((bare.image != marked.image).any(axis=-1))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 >= 8
        assert bare.mask[rows, columns].all()


def test_silhouettes_differ_between_classes() -> None:
    masks = {word: render(replace(MUG, class_word=word)).mask for word in CLASSES}
    for first, second in combinations(CLASSES, 2):
        union = (masks[first] | masks[second]).sum()
        assert (masks[first] & masks[second]).sum() / union < 0.85, (first, second)


def test_contexts_patterns_and_emblems_all_look_different() -> None:
    bare = replace(MUG, pattern="plain", emblem=None)
    looks = [
        *(replace(bare, context=c) for c in CONTEXTS if c != bare.context),
        *(replace(bare, pattern=p) for p in PATTERNS + LAYOUTS),
        *(replace(bare, emblem=e) for e in EMBLEMS),
    ]
    pictures = [render(scene).image.astype(float) for scene in looks]
    for first, second in combinations(range(len(looks)), 2):
        assert np.abs(pictures[first] - pictures[second]).mean() > 0.5, (looks[first], looks[second])


def test_colours_are_far_apart() -> None:
    for first, second in combinations(COLOURS, 2):
        distance = np.linalg.norm(np.subtract(PAINT[first], PAINT[second]))
        assert distance > 75, (first, second, distance)


def test_the_object_stays_in_its_place() -> None:
    for scene in scenes(200):
        assert 0.46 <= scene.x <= 0.56
        assert 0.46 <= scene.y <= 0.56
        assert 0.70 <= scene.size <= 0.80
        assert -4 <= scene.tilt <= 4


def test_personal_subjects_never_occur_in_pretraining() -> None:
    drawn = scenes(20_000)
    seen = {(s.class_word, s.emblem) for s in drawn} | {(s.class_word, s.pattern) for s in drawn}
    for subject in SUBJECTS.values():
        assert (subject.class_word, subject.emblem) not in seen
        assert (subject.class_word, subject.pattern) not in seen
    assert {s.emblem for s in drawn} == {None, *EMBLEMS}
    assert {s.pattern for s in drawn} == {*PATTERNS, *LAYOUTS}


def test_they_do_occur_when_not_held_out() -> None:
    rng = np.random.default_rng(0)
    seen = {(s.class_word, s.emblem) for s in (random_scene(rng, held_out=False) for _ in range(3_000))}
    assert {(s.class_word, s.emblem) for s in SUBJECTS.values()} <= seen


def test_the_distribution_is_the_documented_one() -> None:
    drawn = scenes(8_000, seed=1)
    assert np.mean([s.pattern == "plain" for s in drawn]) == pytest.approx(0.40, abs=0.02)
    assert np.mean([s.pattern in LAYOUTS for s in drawn]) == pytest.approx(0.15, abs=0.02)
    assert np.mean([s.emblem is not None for s in drawn]) == pytest.approx(0.20, abs=0.02)
    assert np.mean([s.accessory is not None for s in drawn]) == pytest.approx(0.40, abs=0.02)
    assert not any(s.emblem and s.pattern in PATTERNS[1:] for s in drawn)


@pytest.mark.parametrize(
    ("field", "value"),
    [("class_word", "cup"), ("colour", "teal"), ("pattern", "zigzag"), ("context", "on mars"), ("emblem", "sun")],
)
def test_a_word_of_another_world_is_refused(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be one of .*, got '{value}'"):
        replace(MUG, **{field: value})  # type: ignore[arg-type]


def test_two_equal_colours_are_refused() -> None:
    with pytest.raises(ValueError, match="second must differ from colour, got 'blue'"):
        replace(MUG, second="blue")
