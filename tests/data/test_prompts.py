"""DreamBooth's prompts: number, kinds and order as published."""

import hashlib
from collections import Counter

from quantbooth.data.prompts import prompts_for

OBJECTS, LIVE = prompts_for(live=False), prompts_for(live=True)


PUBLISHED = "68f4abff41061d3100789cff033f1ce789fa4b0b0c51688b32dddc0c752069ea"
"""sha256 of the 50 sentences of prompts_and_classes.txt, objects first, "{0} {1}" written "{}", joined by newlines."""


def test_every_sentence_is_the_published_one_to_the_letter() -> None:
    sentences = "\n".join(prompt.template for prompt in OBJECTS + LIVE)
    assert hashlib.sha256(sentences.encode()).hexdigest() == PUBLISHED


def test_there_are_twenty_five_different_ones_of_each() -> None:
    for prompts in (OBJECTS, LIVE):
        assert len(prompts) == len({prompt.template for prompt in prompts}) == 25


def test_the_first_ten_and_the_last_five_are_shared_and_no_others() -> None:
    assert OBJECTS[:10] == LIVE[:10]
    assert OBJECTS[-5:] == LIVE[-5:]
    middle = [{prompt.template for prompt in prompts[10:20]} for prompts in (OBJECTS, LIVE)]
    assert not middle[0] & middle[1]


def test_kinds_are_counted_as_published() -> None:
    assert Counter(prompt.kind for prompt in OBJECTS) == {"context": 20, "property": 5}
    assert Counter(prompt.kind for prompt in LIVE) == {"context": 10, "accessory": 10, "property": 5}


def test_a_few_stand_where_they_were_published() -> None:
    assert OBJECTS[0].template == "a {} in the jungle"
    assert OBJECTS[12].template == "a {} with the Eiffel Tower in the background"
    assert LIVE[13].template == "a {} wearing a black top hat and a monocle"
    assert LIVE[24].template == "a cube shaped {}"


def test_every_one_has_one_place_for_the_subject_and_nothing_else_in_braces() -> None:
    for prompt in OBJECTS + LIVE:
        assert prompt.template.count("{}") == 1
        assert not set("{}") & set(prompt.template.replace("{}", ""))
