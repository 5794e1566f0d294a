"""The recipe for `wandb sweep` of docs/how-to/wandb.md: W&B's agent makes a command that runs and finds its metric."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from composing import composed
from quantbooth import programs
from quantbooth.runtime.options import require_valid
from wandb_files import summary, wandb_runs

QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=1", "prior=none"),
    *("tuner.steps=1", "preview.validation_steps=0", "protocol.prompt_stride=13", "protocol.eval_steps=[]"),
)


@pytest.fixture
def recipe(repository: Path) -> dict[str, Any]:
    """The sweep of the document."""
    text = (repository / "docs" / "how-to" / "wandb.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    return dict(yaml.safe_load(block))


def commands(recipe: dict[str, Any]) -> list[list[str]]:
    """Return the agent's command of a trial with the first value of each parameter, and of one with the last."""
    found = []
    for place in (0, -1):
        ends = {name: one.get("values", [one.get("min"), one.get("max")]) for name, one in recipe["parameters"].items()}
        args = create_sweep_command_args({"args": {name: {"value": each[place]} for name, each in ends.items()}})
        words: list[str] = []
        for word in create_sweep_command(recipe["command"]):
            words += args[word[2:-1]] if word.startswith("${") else [word]
        found.append(words)
    return found


def test_an_agent_types_options_that_are_there(recipe: dict[str, Any], repository: Path) -> None:
    for program, *words in commands(recipe):
        assert program == "quantbooth" and len(words) == 1 + len(recipe["parameters"])
        require_valid(composed(*words))
    text = (repository / "docs" / "how-to" / "wandb.md").read_text(encoding="utf-8")
    table = text[text.index("| value |") :].partition("\n\n")[0]
    assert f"`{recipe['metric']['name']}`" in table


@pytest.mark.chain
def test_a_trial_is_the_run_of_the_agent_with_its_metric_also_where_the_work_was_done(
    recipe: dict[str, Any], typed: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    words = [word for word in commands(recipe)[0][1:] if not word.startswith("tuner.steps")]
    for trial in ("trial1", "trial2"):
        monkeypatch.setenv("WANDB_RUN_ID", trial)
        wandb.teardown()  # W&B reads the environment once a process, and an agent starts one for each trial
        code, said = typed(programs.pipeline, *QUICK, *words)
        assert code == 0, said
    monkeypatch.delenv("WANDB_SWEEP_ID")
    wandb.teardown()
    found = wandb_runs(tmp_path / "out" / "logs")
    assert list(found) == ["trial1", "trial2"]
    values = [summary(read)[recipe["metric"]["name"]] for read in found.values()]
    assert values[0] == values[1] > 0
    begun = [next(record.run for record in read if record.HasField("run")) for read in found.values()]
    assert [(one.run_id, one.sweep_id) for one in begun] == [("trial1", "sweep1"), ("trial2", "sweep1")]
