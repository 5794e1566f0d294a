"""What settings have to compute: made, found or shared, before anything is computed."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from rich.console import Console

from quantbooth import programs
from quantbooth.commands import pipeline
from quantbooth.commands.calibrate import calibrate
from quantbooth.run.run import Run
from quantbooth.run.work import show_work, work

Compose = Callable[..., DictConfig]
Command = Callable[..., tuple[int, str]]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=1", "prior=generated"),
    *("prior.num_class_images=2", "tuner.steps=2", "preview.validation_steps=0", "protocol.prompt_stride=25"),
)


def test_each_artifact_is_to_make_once_and_shared_then(compose: Compose, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kinds = (("strategy=s1",), ("strategy=s2",), ("method=float",), ("strategy=s1", "subjects=[toy_mug,toy_duck]"))
    runs = [Run(compose(out, *QUICK, *words)) for words in kinds]
    assert work(runs) == [
        dict(zip(("quantized base", "class pictures", "tuning", "pictures", "scores"), counts, strict=True))
        for counts in (
            ({"make": 1}, {"make": 1}, {"make": 1}, {"make": 2}, {"make": 2}),
            ({"shared": 1}, {"shared": 1}, {"make": 1}, {"shared": 1, "make": 1}, {"shared": 1, "make": 1}),
            ({}, {"make": 1}, {"make": 1}, {"make": 2}, {"make": 2}),
            (
                {"shared": 1},
                {"shared": 1, "make": 1},
                {"shared": 1, "make": 1},
                {"shared": 2, "make": 2},
                {"shared": 2, "make": 2},
            ),
        )
    ]
    assert not (out / "store").exists()
    with runs[0].only.tuned.owning():
        assert work(runs[:1])[0]["tuning"] == {"running": 1}
    assert work(runs[:1])[0]["tuning"] == {"make": 1}
    calibrate(runs[0])
    assert work(runs[:2])[0]["quantized base"] == {"found": 1}
    shown = io.StringIO()
    show_work(runs[:2], Console(file=shown, width=120))
    first = shown.getvalue().splitlines()[1].split()
    assert first[:2] == ["1", "toy_mug"] and first[-7:] == ["found", "make", "make", "2", "make", "2", "make"]


@pytest.mark.parametrize("words", [(), ("-m", "strategy=baseline,s2")])
@pytest.mark.chain
def test_a_dry_run_computes_nothing(
    typed: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    shown: list[int] = []
    monkeypatch.setattr(pipeline, "show_work", lambda runs: shown.append(len(runs)))
    code, said = typed(programs.pipeline, *QUICK, "dry_run=true", *words)
    assert (code, said) == (0, "")
    assert shown == [2 if words else 1]
    assert not list((tmp_path / "out").glob("store/*/*/manifest.json")) and not list((tmp_path / "out").glob("reports"))
    assert typed(programs.tune, *QUICK, "dry_run=true")[0] == 2
