"""Names of methods in tables: the strategy, the tuner, what learns beyond its name, and the tag."""

import pytest

from tests.run.conftest import MakePlan


@pytest.mark.chain
def test_another_tuner_says_its_name_in_tables(plan: MakePlan) -> None:
    named = {
        "scales_in_out": "baseline-scales_in_out",
        "scales": "baseline",
        "in, out + norms": "baseline-in-out-norms",
    }
    for name, method in named.items():
        assert plan(f"tuner.name={name}").method == method
    assert plan("tuner=scales_in_out", "strategy=s1").method == "s1-scales_in_out"
    assert plan("method=float", "tuner.name=full_word").method == "float-full_word"
    adapters = (["tuner=lora", "quant=fp"], ["tuner=qlora"])
    others: tuple[list[str], ...] = ([], ["strategy=s2"], ["tag=0.1"], ["strategy=s1", "tag=0.1"])
    assert [plan(*words, *other).method for words in adapters for other in others] == [
        *("lora", "s2-lora", "lora-0.1", "s1-lora-0.1"),
        *("qlora", "s2-qlora", "qlora-0.1", "s1-qlora-0.1"),
    ]


@pytest.mark.chain
@pytest.mark.parametrize(
    ("words", "method"),
    [
        (("tuner=scales", "tuner.norms=true"), "baseline-norms"),
        (("tuner=scales", "tuner.biases=true", "tag=a"), "baseline-biases-a"),
        (("tuner=scales", "tuner.group_size=16", "strategy=s1"), "s1-groups16"),
        (("tuner=scales_in_out", "tuner.identifier=true"), "baseline-scales_in_out-identifier"),
        (("tuner=scales_shifts",), "baseline-scales_shifts"),
        (("tuner=scales_shifts", "tuner.norms=false"), "baseline-scales_shifts-no-norms"),
        (("tuner=scales_lora", "tuner.biases=true", "tuner.norms=true"), "baseline-scales_lora-biases-norms"),
        (("method=float", "tuner.identifier=true"), "float-identifier"),
        (("tuner=qa_lora",), "qa_lora"),
        (("tuner=qlora", "tuner.identifier=true"), "qlora-identifier"),
    ],
)
def test_what_learns_beyond_the_name_of_a_tuner_is_in_tables(
    plan: MakePlan, words: tuple[str, ...], method: str
) -> None:
    assert plan(*words).method == method
