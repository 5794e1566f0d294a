"""Recipes of conf/experiment: what a person must give, what they fit into, and that the tables of plans are theirs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from composing import composed
from experiments.planning.where import FILE, PLANS, RECIPES, Plan, deciding
from experiments.random_base import write_configs
from quantbooth.commands.plan import lines
from quantbooth.run.run import Run

GIVEN = {"base.path", "subject.path", "subject.class_word"}
KNOWN = json.loads(FILE.read_text())
OF_RECIPES = [plan for plan in PLANS if plan.name in RECIPES]


def card(plan: Plan) -> float:
    return float(composed(f"experiment={plan.name}").resources.memory_gb)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in "123":
        Image.fromarray(generator.integers(0, 256, (300, 260, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_asks_for_a_base_photos_and_a_class_word_alone(recipe: str) -> None:
    cfg = composed(f"experiment={recipe}")
    said: Any = OmegaConf.to_container(cfg)
    groups = {group: node for group, node in said.items() if isinstance(node, dict)}
    assert {f"{group}.{key}" for group, node in groups.items() for key in node if node[key] == "???"} == GIVEN
    assert str(cfg.resources.memory_gb).startswith(recipe.removesuffix("gb").rpartition("_")[2])


@pytest.mark.parametrize("plan", OF_RECIPES, ids=lambda plan: plan.name)
@pytest.mark.chain
def test_a_recipe_takes_a_folder_of_photos_and_a_base_of_its_architecture(
    plan: Plan, photos: Path, tmp_path: Path
) -> None:
    write_configs(plan.architecture, tmp_path / "base")
    words = (f"base.path={tmp_path}/base", f"subject.path={photos}", "subject.class_word=dog")
    run = Run(composed(f"experiment={plan.name}", "trainer=cpu", *words))  # which needs no card
    run.check("plan", "timestep_sampler", "protocol", "sampler", "recipe", "steps", "subjects")
    (one,) = run.subjects
    assert one.subject.photos.shape == (3, 3, run.outline.side, run.outline.side)


@pytest.mark.parametrize("plan", OF_RECIPES, ids=lambda plan: plan.name)
def test_the_table_of_plans_has_recipes_as_they_are_and_they_fit(plan: Plan) -> None:
    found = KNOWN[plan.key]
    assert {stage: deciding(plan, stage) for stage in plan.stages} == {
        stage: found[stage]["options"] for stage in found
    }
    assert max(one["peak"] for one in found.values()) <= card(plan) * 1e9


@pytest.mark.slow
@pytest.mark.parametrize("plan", OF_RECIPES, ids=lambda plan: plan.name)
def test_a_plan_of_a_recipe_ends_with_that_it_fits(plan: Plan, tmp_path: Path) -> None:
    write_configs(plan.architecture, tmp_path / "base")
    run = Run(plan.settings(tmp_path / "base"))
    assert [*lines(run, 0, 0, None)][-1] == f"fits in {card(plan):.2f} GB"
