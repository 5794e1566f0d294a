"""A search with Optuna: trials in the report and in its study, failures listed, and finished trials found again."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from quantbooth import programs
from quantbooth.diffusion.objective import denoising_error
from quantbooth.run.objectives import objective_values
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.outcomes import read_sweep, records
from quantbooth.tuning import module as tuning

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs quantbooth[optuna]")
optuna = pytest.importorskip("optuna", reason="needs quantbooth[optuna]")

Command = Callable[..., tuple[int, str]]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=1", "prior=none", "tuner.steps=2"),
    *("preview.validation_steps=0", "protocol.prompt_stride=25", "-m", "search=optuna", "hydra.sweeper.n_trials=3"),
)
RATE = "tuner.learning_rate=tag(log,interval(0.005,0.05))"


@pytest.fixture
def search(typed: Command) -> Command:
    """Runs a search as if typed, in this process; gives its exit code and what it wrote to stderr."""
    return lambda *words: typed(programs.pipeline, *QUICK, *words)


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def study_of(folder: Path) -> Any:
    storage = f"sqlite:///{folder}/study.db"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def tuned(out: Path) -> dict[str, int]:
    """When each finished tuning was written."""
    return {file.parent.name: file.stat().st_mtime_ns for file in out.glob("store/scale_sets/*/manifest.json")}


def front(out: Path) -> pd.DataFrame:
    (file,) = out.glob("reports/*/trials.csv")
    return pd.read_csv(file)


def failing(calls: Sequence[int], error: BaseException) -> Callable[..., torch.Tensor]:
    """A training step that fails in these calls."""
    count = iter(range(1000))

    def step(*given: torch.Tensor) -> torch.Tensor:
        if next(count) in calls:
            raise error
        return denoising_error(*given)  # type: ignore[arg-type]

    return step


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "a search needs an option with several values, got none; add one such as 'tuner.learning_rate=tag(log,"),
        ([RATE, "objectives=[]"], "a search needs objectives, got objectives=[]; write objectives=[clip_t,local_clip"),
        ([RATE, "dry_run=true"], "dry_run=true shows jobs that are known before, which a search chooses as it goes"),
        (["tuner.learning_rate=interval(-1,1)"], "refused before any job began: tuner.learning_rate must be a finite"),
        ([RATE, "objectives=[clip_t,dino]"], "objectives has dino, which scorer, dino and protocol of these options"),
        ([RATE, "scorer.mask_background=true,false"], "one document needs one scorer, got "),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_its_first_trial(
    search: Command, tmp_path: Path, words: list[str], line: str
) -> None:
    code, said = search(*words)
    assert code == 2 and line in said
    assert not (tmp_path / "out" / "store").exists() and not list((tmp_path / "out").rglob("study.db"))


@pytest.mark.chain
def test_a_search_goes_on_after_a_failed_trial_and_the_same_command_tunes_what_is_missing_alone(
    search: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "denoising_error", failing([3], UserError("no memory")))  # in the second trial
        code, said = search(RATE)
    (first,) = records(out)
    states = [one.state for one in read_sweep(first).outcomes()]
    assert (code, states) == (2, ["done", "failed", "done"])
    assert "failed jobs: 1 (the others finished)" in said and ": no memory" in said
    assert "to run these again: the same command, which finds what is done" in said
    assert [trial.state.name for trial in study_of(first).trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    before, shown = tuned(out), front(out)
    assert len(before) == len(shown) == 2

    assert search(RATE) == (0, "")
    after = tuned(out)
    assert before.items() < after.items() and len(after) == 3
    done = study_of(records(out)[-1])
    assert [trial.state.name for trial in done.trials] == ["COMPLETE"] * 3
    assert [one.name for one in done.directions] == ["MAXIMIZE", "MAXIMIZE"]
    for trial, outcome in zip(done.trials, read_sweep(records(out)[-1]).outcomes(), strict=True):
        assert tuple(trial.values) == objective_values(["clip_t", "local_clip_i"], outcome.result)
        assert f"tuner.learning_rate={trial.params['tuner.learning_rate']}" in outcome.words
        assert 0.005 <= trial.params["tuner.learning_rate"] <= 0.05


@pytest.mark.chain
def test_a_search_that_was_interrupted_goes_on_and_a_finished_one_tunes_nothing(
    search: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "denoising_error", failing([3], KeyboardInterrupt()))
        assert search(RATE, "objectives=[local_clip_i]")[0] == 130
    before = tuned(out)
    assert len(before) == 1
    assert search(RATE, "objectives=[local_clip_i]") == (0, "")
    after = tuned(out)
    assert before.items() < after.items() and len(after) == 3
    shown = front(out)
    best = study_of(records(out)[-1]).best_trial
    ahead = shown[shown["front"].notna()]
    assert best.params["tuner.learning_rate"] in ahead["option learning_rate"].tolist()
    assert ahead["local_clip_i"].tolist() == pytest.approx([best.value] * len(ahead))
    assert search(RATE, "objectives=[local_clip_i]") == (0, "")
    assert tuned(out) == after
    assert search(RATE, "objectives=[local_clip_i]", "hydra.sweeper.n_trials=4") == (0, "")
    assert after.items() < tuned(out).items() and len(tuned(out)) == 4
    first, *others = ([one.words for one in read_sweep(folder).outcomes()] for folder in records(out))
    assert [len(words) for words in (first, *others)] == [2, 3, 3, 4]
    assert others[0] == others[1] == others[2][:3] and first == others[0][:2]
