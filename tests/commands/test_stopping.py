"""quantbooth-tune with stopping: what the manifest says, a run that was killed, experts apart, and the guard."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.tune import tune
from quantbooth.data.prompts import as_read
from quantbooth.run.run import Run
from quantbooth.run.stopping import held_out, not_guarded
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.module import TuningModule
from quantbooth.tuning.stopping import AT_THE_END, BY_LOSS, BY_PROMPTS

pytestmark = pytest.mark.chain

Configure = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "prior=none", "tuner.steps=6"),
    *("preview.validation_steps=0", "protocol.prompt_stride=25", "protocol.eval_steps=[2]"),
    *("resources.checkpoint_every=0", "trainer.log_every_n_steps=1"),
)
STOPPED = ("tuner.stopping.every=1", "tuner.stopping.window=2", "tuner.stopping.variance=0.999")
GUARD = (
    *("tuner.stopping.every=2", "tuner.stopping.variance=0", "tuner.stopping.prompt_drop=0.0"),
    *("tuner.stopping.prompts=2", "tuner.stopping.sampler_steps=2"),
    "base.held_out._target_=quantbooth_toyworld.questions.rendered_questions",
)


@pytest.fixture(scope="module")
def configure(compose: Callable[..., DictConfig], tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration on a tiny untrained base that is quantized already."""
    make = partial(compose, tmp_path_factory.mktemp("stopping") / "out", *QUICK)
    calibrate(Run(make()))
    return make


def kept(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


def measured(run: Run) -> dict[str, Any]:
    return dict(run.only.tuned.manifest().measured)


def test_a_run_that_stops_says_where_and_why_and_keeps_what_it_learned_until_then(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(configure(*STOPPED))
    found, said = kept(tune(run)[0]), measured(run)
    at = said["stopped_at"][0]
    assert at < 6 and said["stopped_by"] == [BY_LOSS]
    assert f"stopped at step {at} of 6: {said['stopped_why'][0]}" in capsys.readouterr().err
    assert len(said["frozen_losses"]) == at + 1 and said["prompt_fidelity"] == []
    assert said["samples_seen"] == at * run.recipe.batch == sum(said["samples_per_expert"])
    longer = Run(configure(f"protocol.eval_steps=[2,{at}]"))
    whole = kept(tune(longer)[0])
    assert "stopped_at" not in measured(longer)
    assert found["step-000006.safetensors"] == whole[f"step-{at:06d}.safetensors"]
    assert found["step-000002.safetensors"] == whole["step-000002.safetensors"]


def test_a_run_that_was_killed_stops_where_one_that_was_not_did(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    through, killed = (Run(configure(*STOPPED, f"seed={seed}", "tag=killed")) for seed in (1, 1))
    step, inner = [0], TuningModule.training_step

    def dying(module: TuningModule, number: int) -> object:
        step[0] += 1
        if step[0] == 2:
            raise KeyError("killed")
        return inner(module, number)

    monkeypatch.setattr(TuningModule, "training_step", dying)
    with pytest.raises(KeyError, match="killed"):
        tune(killed)
    monkeypatch.setattr(TuningModule, "training_step", inner)
    found, said = kept(tune(killed)[0]), measured(killed)
    whole = Run(configure(*STOPPED, "seed=1", "tag=through"))
    assert found == kept(tune(whole)[0])
    for key in ("stopped_at", "stopped_why", "frozen_losses", "samples_seen", "samples_per_expert"):
        assert said[key] == measured(whole)[key]
    assert through.only.tuned.identity == killed.only.tuned.identity


def test_experts_that_are_trained_apart_stop_each(configure: Configure) -> None:
    run = Run(configure(*STOPPED, "strategy=s2", "strategy.apart=true", "tuner.steps=4"))
    tune(run)
    said = measured(run)
    assert len(said["stopped_at"]) == len(said["stopped_by"]) == len(said["stopped_why"]) == 3
    assert [by == AT_THE_END for by in said["stopped_by"]] == [at == 4 for at in said["stopped_at"]]
    assert said["samples_per_expert"] == [at * run.recipe.batch for at in said["stopped_at"]]
    assert said["samples_seen"] == sum(said["samples_per_expert"])


def test_the_guard_asks_held_out_prompts_of_which_none_is_evaluated(configure: Configure) -> None:
    run = Run(configure(*GUARD, "tuner.learning_rate=0.5"))
    texts = [request.text for request in held_out(run, run.only.subject)]
    assert len(texts) == len(set(texts)) == 2
    assert not {as_read(text) for text in texts} & {as_read(text) for text in run.only.subject.texts}
    guard = run.only._learned["guard"]
    assert guard["prompts"] == texts and guard["encoder"] == run.scorer.encoder.name
    tune(run)
    said = measured(run)
    fidelity, at = said["prompt_fidelity"], said["stopped_at"][0]
    assert len(fidelity) == len(said["frozen_losses"]) == (at // 2 + 1 if at < 6 else 3)
    assert (said["stopped_by"] == [BY_PROMPTS]) == (fidelity[-1] < fidelity[0])
    assert said["stopped_by"] != [BY_LOSS]


def test_a_guard_whose_prompts_the_scorer_cannot_read_is_refused_before_work(configure: Configure) -> None:
    run = Run(configure(*GUARD[:-1]))
    with pytest.raises(UserError, match="^the toy scorer has no word 'dog' "):
        tune(run)
    assert not list((run.store.root / "unfinished").glob("*"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("tuner.stopping.sampler_steps=1001",), "^tuner.stopping.sampler_steps=1001 must be at most base.timesteps"),
        (("tuner.stopping.sampler_steps=1000", "sampler.scheduler=dpm"), "^tuner.stopping.sampler_steps=1000: .*dpm"),
    ],
)
def test_steps_that_the_guard_cannot_draw_in_are_refused_before_work(
    configure: Configure, words: tuple[str, ...], told: str
) -> None:
    run = Run(configure(*GUARD, *words))
    with pytest.raises(UserError, match=told):
        tune(run)
    assert not list((run.store.root / "unfinished").glob("*"))


def test_a_zone_that_the_guard_does_not_see_is_named(configure: Configure) -> None:
    given = ("strategy=tas", "strategy.count=3", *GUARD)
    (line,) = not_guarded(Run(configure(*given)))
    assert "part2 [334, 667)" in line or "part3 [667, 1000)" in line
    assert "2 timesteps of the prompt guard" in line and "raise tuner.stopping.sampler_steps" in line
    assert not list(not_guarded(Run(configure(*given, "tuner.stopping.sampler_steps=10"))))
    assert not list(not_guarded(Run(configure("strategy=tas"))))


def test_only_a_run_that_can_stop_has_it_in_its_identity(configure: Configure) -> None:
    off, on = (Run(configure(*words)).only.tuned.identity for words in ((), STOPPED))
    assert "stopping" not in off["tuner"] and "guard" not in off
    assert on["tuner"]["stopping"]["every"] == 1 and "guard" not in on
