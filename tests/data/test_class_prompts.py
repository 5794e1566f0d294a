"""Prompts of class pictures: different ones, none of the evaluation, and refusals of given ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from quantbooth.data.class_prompts import general_class_prompts
from quantbooth.data.prompts import prompts_for
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth_toyworld.captions import NAMED_BY_PRIOR, class_prompts, prompts, words
from quantbooth_toyworld.world import COLOURS, CONTEXTS, SUBJECTS

Compose = Callable[..., DictConfig]
EVALUATED = {
    *(prompt.template for live in (True, False) for prompt in prompts_for(live)),
    *(prompt.template for subject in SUBJECTS.values() for prompt in prompts(subject)),
}


@pytest.mark.parametrize("make", [general_class_prompts, class_prompts])
@pytest.mark.parametrize("count", [1, 64, 500])
def test_they_are_different_name_the_class_once_and_are_not_evaluated(make: Any, count: int) -> None:
    made = make(count)
    assert len(set(made)) == len(made) == count
    assert all(text.count("{}") == 1 for text in made) and not EVALUATED & set(made)


def test_those_of_the_toy_world_are_in_its_vocabulary_and_name_half_of_the_attributes() -> None:
    made = " ".join(class_prompts(300)).replace("{}", "mug")
    assert set(made.split()) <= set(words())
    for kind, every in (("context", CONTEXTS), ("colour", COLOURS)):
        shown = " ".join(text.partition(" wearing ")[0] + " " for text in class_prompts(300))
        assert len(NAMED_BY_PRIOR[kind]) <= (len(every) + 1) // 2
        if kind == "context":
            assert all((value in made) == (value in NAMED_BY_PRIOR[kind]) for value in every)
        else:
            body = [text.partition("{}")[0] for text in class_prompts(300)]
            assert all(any(value in text for text in body) == (value in NAMED_BY_PRIOR[kind]) for value in every), shown


@pytest.mark.parametrize(("make", "most"), [(general_class_prompts, 1024), (class_prompts, 500)])
def test_more_than_there_are_is_refused(make: Any, most: int) -> None:
    assert len(set(make(most))) == most
    for count in (most + 1, 10**9):
        with pytest.raises(UserError, match=str(most)):
            make(count)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["prior.class_prompts=['a mug']"], "prior.class_prompts"),
        (["prior.class_prompts=['a {} on the beach']"], "a {} on the beach"),
        (["prior.class_prompts=['a big {}','a big {}']"], "prior.class_prompts"),
        (["prior.class_prompts=['a  {} on the Beach ']"], "a  {} on the Beach"),
        (["prior.class_prompts=['a big {}','A big  {}']"], "prior.class_prompts"),
        (["prior.class_prompts=['a {} mug','a mug {}']"], "a mug mug"),
        (["prior.class_prompts=['a big {}','a {} at home']", "prior.num_class_images=1"], "prior.num_class_images=1"),
        (["prior=none", "prior.class_prompts=['a big {}']"], "prior.class_batch_size=0"),
        (["prior=none", "prior.target=base"], "prior.target='base' needs class rows"),
        (["prior=none", "prior.loss_weight=1"], "prior.loss_weight=1 needs class rows"),
        (["prior=none", "prior.seed=5"], "prior.seed=5"),
        (["prior=distilled", "prior.seed=5"], "prior.seed=5"),
        (["prior=none", "prior.num_class_images=4"], "prior.num_class_images=4 needs class rows"),
        (["prior.class_batch_size=0"], "choose prior=none alone"),
        (["prior=generated", "prior.num_class_images=0"], "prior.num_class_images"),
    ],
)
def test_contradictions_are_refused(compose: Compose, tmp_path: Path, options: list[str], named: str) -> None:
    run = Run(compose(tmp_path, "base=folder", "base.resolution=32", "subject=toy_mug", *options))
    with pytest.raises(UserError) as caught:
        run.check("recipe")
        assert run.subjects[0].class_prompts
    assert named in str(caught.value)


def test_of_the_prompts_of_a_base_as_many_are_taken_as_there_are_pictures(compose: Compose, tmp_path: Path) -> None:
    options = ("base=folder", "base.resolution=32", "subject=toy_mug", "prior=prompted", "prior.num_class_images=")
    few, many, none = (
        Run(compose(tmp_path, *options[:-1], f"{options[-1]}{count}", "prior.target=base")).subjects[0].class_prompts
        for count in (3, 64, 0)
    )
    assert few == many[:3] and len(many) == len(none) == 64


def test_prompts_and_target_enter_the_names_of_what_they_decide(compose: Compose, tmp_path: Path) -> None:
    def made(*options: str) -> tuple[str, str]:
        one = Run(compose(tmp_path, "base=folder", "base.resolution=32", "subject=toy_mug", *options)).subjects[0]
        return one.prior.path.name, one.tuned.path.name

    plain, prompted, distilled = made("prior=generated"), made("prior=prompted"), made("prior=distilled")
    listed = made("prior=generated", "prior.class_prompts=['a big {}']")
    both = made("prior=distilled", "prior.class_prompts=['a big {}']")
    assert len({plain[0], prompted[0], listed[0]}) == 3
    assert len({one[1] for one in (plain, prompted, distilled, listed, both)}) == 5
    assert made("prior=generated", "prior.target=noise", "tuner.pull=0.0", "tuner.dco_beta=null") == plain
    assert len({made(f"tuner.{option}")[1] for option in ("pull=0.1", "pull=0.2", "dco_beta=9.0")} - {plain[1]}) == 3
