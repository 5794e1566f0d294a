"""Prompts of a user: every prompt with every seed, each picture with a unique name."""

from quantbooth.data.prompts import expand_prompts


def test_every_sentence_is_drawn_with_every_seed_and_the_subject_put_in() -> None:
    drawn = expand_prompts(["a {} on the beach", "a dog"], [3, 5], "sks mug", "ddim")
    asked = [(job.text, job.seed) for job in drawn]
    assert asked == [(text, seed) for text in ("a sks mug on the beach", "a dog") for seed in (3, 5)]
    assert drawn[0].file.startswith("a-sks-mug-on-the-beach-seed3-")
    assert expand_prompts("a dog", [3], "", "ddim") == [drawn[2]]


def test_names_differ_when_anything_that_decides_the_picture_does() -> None:
    texts = ["a dog!", "a dog?", "a " + "very " * 30 + "big dog", "a " + "very " * 30 + "small dog", "犬"]
    files = [job.file for by in ("ddim", "euler") for job in expand_prompts(texts, [0, 1], "", by)]
    assert len(set(files)) == len(files) == 20
    assert max(map(len, files)) < 80
    assert all(file.isascii() and "/" not in file for file in files)
    assert files[8].startswith("picture-seed0-")


def test_a_sentence_given_twice_is_drawn_once() -> None:
    assert len(expand_prompts(["a {}", "a cat"], [0], "cat", "x")) == 1
