"""Free text on a command line is read as it was typed."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from quantbooth.runtime.words import quoted


def value(word: str, *others: str) -> object:
    """What Hydra reads from a word of a command line."""
    return OverridesParser.create().parse_override(quoted([*others, word], "quantbooth")[-1]).value()


@pytest.mark.parametrize(
    "text",
    [
        "a {} on the beach",
        "a red mug, on the beach",
        "rex (1)",
        "photos/a=b",
        "ein Löwe",
        "it's a mug",
        'say "hi"',
        "C:\\photos\\rex (1)\\",
        'back\\" slash {}',
        "a mug: red",
        "50 %, or more!",
        "{} at night?",
        "two\nlines {}",
    ],
)
@pytest.mark.parametrize("option", ["prompt", "subject.path", "+subject.name", "report.folder", "base.identifier"])
def test_a_text_is_read_as_it_was_typed(option: str, text: str) -> None:
    assert value(f"{option}={text}") == text


@pytest.mark.parametrize(
    "word",
    [
        "tuner.steps=4",
        "subjects=[a,b]",
        "prompt=[a,b]",
        "prompt='a {}'",
        'prompt="a {}"',
        "prompt=null",
        "prompt=plain words",
        "seed=0,1",
        "prompt=a,b",
        "hydra.sweep.dir=a (b)",
        "strategy=s1,s2",
        "tuner.steps=a (b)",
        "~prompt",
        "-m",
    ],
)
def test_other_words_are_left_alone(word: str) -> None:
    assert quoted([word], "quantbooth") == [word]


@pytest.mark.parametrize("other", ["-m", "--multirun", "experiment=demo", "hydra.mode=MULTIRUN"])
def test_a_comma_divides_the_values_of_a_sweep(other: str) -> None:
    assert quoted([other, "prompt=a mug, a duck"], "quantbooth")[1] == "prompt=a mug, a duck"
    assert quoted([other, "prompt=a {}"], "quantbooth")[1] == 'prompt="a {}"'


@pytest.mark.parametrize("name", ["8597", "85e3", "0123", "12ab", "toy_mug-s2-w4-seed0-859710105c30"])
def test_digits_of_finished_work_are_a_name(name: str) -> None:
    assert value(f"scale_sets={name}") == name
    swept = OverridesParser.create().parse_override(quoted([f"scale_sets={name},12e4"], "quantbooth")[0])
    assert [text.strip('"') for text in swept.sweep_string_iterator()] == [name, "12e4"]
