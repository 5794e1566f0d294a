"""Records of jobs: two jobs share none, a refused job leaves none, and the folders of others stay."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from quantbooth import programs
from quantbooth.runtime.records import forget

BASE = ("base=folder", "base.resolution=32")
Typed = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(
    "words",
    [
        ("tuner.steps=-1",),
        ("quant=fp", "prior=none"),
        ("-m", "tuner.steps=-1,-2"),
        ("-m", "quant=fp", "prior=none", "seed=0,1"),
        ("paths.store=/dev/null/store", "prior=none"),
    ],
)
def test_a_refused_command_leaves_nothing(typed: Typed, tmp_path: Path, words: tuple[str, ...]) -> None:
    assert typed(programs.tune, *BASE, *words)[0] == 2
    assert list(tmp_path.iterdir()) == []
    logs = [handler.baseFilename for handler in logging.root.handlers if isinstance(handler, logging.FileHandler)]
    assert not [log for log in logs if log.startswith(str(tmp_path))]


@pytest.mark.parametrize("log", ["", "a warning"])
@pytest.mark.parametrize("other", [False, True])
def test_what_was_logged_and_what_is_of_others_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, other: bool
) -> None:
    record = tmp_path / "out" / "logs" / "runs" / "day" / "time"
    (record / ".hydra").mkdir(parents=True)
    (record / ".hydra" / "config.yaml").write_text("seed: 0")
    (record / "tune.log").write_text(log)
    if other:
        (record.parent / "another").mkdir()
    job = type("Job", (), {"runtime": type("Runtime", (), {"output_dir": str(record)})})
    monkeypatch.setattr(HydraConfig, "get", lambda: job)
    forget()
    assert record.exists() == bool(log)
    assert record.parent.exists() == (other or bool(log))
    assert tmp_path.exists()


def test_two_jobs_have_records_of_their_own(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def note() -> None:
        found.append(Path(HydraConfig.get().runtime.output_dir))

    monkeypatch.setattr("quantbooth.runtime.jobs.forget", note)
    for _ in range(4):
        typed(programs.tune, *BASE, "tuner.steps=-1")
    assert len(set(found)) == 4
    assert len({folder.parent for folder in found}) <= 2
