"""The personal subjects: distinct looks, five pictures, twenty held out, and 25 prompts with known attributes."""

from collections import Counter

import pytest

from quantbooth_toyworld.captions import ToyPrompt, prompts, untouched
from quantbooth_toyworld.scenes import render
from quantbooth_toyworld.subjects import held_out_scenes, tuning_scenes
from quantbooth_toyworld.world import ACCESSORIES, CLASSES, CONTEXTS, LAYOUTS, SUBJECTS, ToySubject

every_subject = pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
MUG = SUBJECTS["toy_mug"]


def test_the_cast() -> None:
    assert len(SUBJECTS) >= 12
    assert {subject.class_word for subject in SUBJECTS.values()} == set(CLASSES)
    assert all(name == subject.name for name, subject in SUBJECTS.items())
    looks = [(s.class_word, look) for s in SUBJECTS.values() for look in (s.pattern, s.emblem)]
    assert len(set(looks)) == len(looks)
    assert all(subject.pattern in LAYOUTS for subject in SUBJECTS.values())


@every_subject
def test_tuning_scenes(subject: ToySubject) -> None:
    scenes = tuning_scenes(subject)
    assert len(scenes) == len({scene.context for scene in scenes}) == 5
    assert len({(scene.x, scene.y, scene.size, scene.tilt) for scene in scenes}) == 5
    assert all(scene.accessory is None for scene in scenes)
    assert scenes == tuning_scenes(subject)


@every_subject
def test_held_out_scenes(subject: ToySubject) -> None:
    scenes = held_out_scenes(subject)
    assert Counter(scene.context for scene in scenes) == dict.fromkeys(CONTEXTS, 2)
    assert sum(scene.accessory is None for scene in scenes) == 10
    assert {scene.accessory for scene in scenes} == {None, *ACCESSORIES}
    assert not set(scenes) & set(tuning_scenes(subject))
    assert len({render(scene).image.tobytes() for scene in scenes}) == 20


@every_subject
def test_every_scene_shows_the_subject(subject: ToySubject) -> None:
    for scene in tuning_scenes(subject) + held_out_scenes(subject):
        for attribute in ("class_word", "colour", "second", "pattern", "emblem"):
            assert getattr(scene, attribute) == getattr(subject, attribute)


@every_subject
def test_there_are_25_different_prompts(subject: ToySubject) -> None:
    found = prompts(subject)
    assert len({prompt.template for prompt in found}) == len(found) == 25
    assert Counter(p.kind for p in found) == {"context": 10, "accessory": 6, "property": 7, "plain": 2}
    assert Counter(tuple(p.asked) for p in found) == {
        ("context",): 10,
        ("accessory",): 3,
        ("accessory", "context"): 3,
        ("colour",): 5,
        ("pattern",): 2,
        (): 2,
    }
    assert all(prompt.template.count("{}") == 1 for prompt in found)
    assert all(value in prompt.template for prompt in found for value in prompt.asked.values())


@every_subject
def test_edits_ask_for_something_else_than_the_subject_is(subject: ToySubject) -> None:
    edits = [prompt for prompt in prompts(subject) if prompt.kind == "property"]
    for prompt in edits:
        for attribute, value in prompt.asked.items():
            assert value not in (getattr(subject, attribute), subject.second)


def test_a_prompt_takes_any_words_for_the_subject() -> None:
    prompt = ToyPrompt("a {} in the snow", "context", {"context": "in the snow"})
    assert prompt.text("sks mug") == "a sks mug in the snow"
    assert prompt.text("mug") == "a mug in the snow"


def test_untouched_attributes() -> None:
    own = {"class_word": "mug", "colour": MUG.colour, "second": MUG.second, "pattern": "half", "emblem": "star"}
    assert untouched(MUG, ToyPrompt("a {} at night", "context", {"context": "at night"})) == own
    recoloured = untouched(MUG, ToyPrompt("a green {}", "property", {"colour": "green"}))
    assert recoloured == {key: value for key, value in own.items() if key != "colour"}
    patterned = untouched(MUG, ToyPrompt("a striped {}", "property", {"pattern": "striped"}))
    assert patterned == {"class_word": "mug", "colour": MUG.colour}
