"""Commands on a tiny untrained base: a sweep that was interrupted goes on, every mistake ends in one line and 2."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from quantbooth import programs
from quantbooth.diffusion.objective import denoising_error
from quantbooth.store.manifest import TITLES
from quantbooth.tuning import module as tuning
from stderr import complaints

Command = Callable[..., tuple[int, str]]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=1", "prior=none"),
    *("tuner.steps=2", "trainer.log_every_n_steps=0", "preview.validation_steps=0", "protocol.prompt_stride=25"),
)


@pytest.fixture
def command(typed: Command) -> Command:
    """Runs a command as if typed, in this process; gives its exit code and what it wrote to stderr."""
    return lambda program, *words: typed(program, *QUICK, *words)


def times(folder: Path) -> dict[str, int]:
    """When each file of finished artifacts was written."""
    files = (file for file in folder.glob("store/*/*/**/*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_mtime_ns for file in files}


@pytest.mark.chain
def test_an_interrupted_sweep_goes_on_where_it_was_and_then_reports(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, calls = tmp_path / "out", iter(range(100))

    def interrupted(*given: torch.Tensor) -> torch.Tensor:
        if next(calls) == 3:  # the second step of the second job
            raise KeyboardInterrupt
        return denoising_error(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "denoising_error", interrupted)
        code, said = command(programs.pipeline, "-m", "strategy=baseline,s1", "sampler.steps=2")
    assert code == 130
    assert "interrupted; finished work is kept" in said.splitlines()[-1]
    before = times(out)
    assert list(out.glob("store/*/.*")) == []
    assert sum(name.endswith("rows.parquet") for name in before) == 2

    assert command(programs.pipeline, "-m", "strategy=baseline,s1", "sampler.steps=2") == (0, "")
    after = times(out)
    assert before.items() <= after.items()
    assert sum(name.endswith("rows.parquet") for name in after) == 3  # the untuned base counts once
    (page,) = (file.read_text() for file in out.glob("reports/*/index.html"))
    assert "baseline" in page
    assert "s1" in page


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("tuner.stepz=3", "unknown option 'tuner.stepz' (did you mean 'tuner.steps'?); --cfg job shows all options"),
        ("quant.bits=5", "quant.bits must be one of 2, 3, 4, 8, null, got 5"),
        (
            "strategy=s1 strategy.interval=[900,1200]",
            "strategy.interval must be [start, stop] with 0 <= start < stop <= 1000, got [900, 1200]",
        ),
        pytest.param(
            "strategy=s2 base.zones.content=[300,934]",
            "zones must be in ascending order and must not overlap, got clean_up [0, 354) and content [300, 934), "
            "from strategy",
            marks=pytest.mark.slow,
        ),
        ("sampler.steps=5000", "sampler.steps must be at most base.timesteps = 1000, got 5000"),
        ("+optimizer.foo=1", "optimizer.name=adamw refuses its options: "),
        ("+optimizer.betas=''", "optimizer.name=adamw refuses its options: "),
        ("report.scores=[{here}]", "report.scores is an option of quantbooth-report"),
        ("base.path={here}", "{here} is not a diffusers model folder: model_index.json is missing; check base.path"),
        pytest.param(
            "subject=folder subject.class_word=dog subject.path={here}/gone",
            "subject.path must be a folder of photos, found no folder at {here}/gone, from subject.pictures",
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.chain
def test_a_mistake_ends_in_one_line_and_2_and_leaves_nothing(
    command: Command, tmp_path: Path, given: str, line: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    code, said = command(programs.pipeline, *given.format(here=here).split())
    assert said.startswith(f"quantbooth: {line.format(here=here)}")
    assert (code, said.count("\n")) == (2, 1)
    assert times(tmp_path / "out") == {}
    assert list((tmp_path / "out").glob("store/*/.*")) == []


def test_an_unreadable_photo_is_named_before_any_work(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.linear_gradient("L").resize((40, 40)).save(folder / "1.png")
    (folder / "2.jpg").write_text("no picture")
    code, said = command(programs.pipeline, "subject=folder", f"subject.path={folder}", "subject.class_word=dog")
    assert said.startswith(f"quantbooth: cannot read the photo {folder}/2.jpg: ")
    assert (code, said.count("\n")) == (2, 1)
    assert not (tmp_path / "out" / "store").exists()


@pytest.mark.chain
def test_what_is_missing_names_the_command_that_makes_it(command: Command, tmp_path: Path) -> None:
    store = tmp_path / "out" / "store"
    for verb, kind, maker in (
        (programs.tune, "quantized_base", "quantbooth-calibrate"),
        (programs.report, "scores", "quantbooth-evaluate"),
    ):
        line = (
            f"quantbooth: {store} lacks {TITLES[kind]} of these settings; make it with {maker} and the same options\n"
        )
        assert command(verb) == (2, line)
    assert times(tmp_path / "out") == {}


@pytest.mark.slow
def test_scores_that_are_none_are_refused(command: Command, tmp_path: Path) -> None:
    code, said = command(programs.report, f"report.scores=[{tmp_path}/gone]")
    line = f"quantbooth: {tmp_path}/gone must hold scores, found nothing; make it with quantbooth-evaluate"
    assert said.splitlines()[-1] == line
    assert code == 2


def typed(*command_line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("HYDRA_FULL_ERROR", "QUANTBOOTH_DEBUG")}
    return subprocess.run(
        [sys.executable, "-m", *command_line], cwd=folder, env=clean, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_a_mistake_typed_at_a_real_command_line_is_one_line_and_2(tmp_path: Path) -> None:
    ended = typed("quantbooth.programs", "tune", "strategy=s1", "strategy.interval=[700,200]", folder=tmp_path)
    line = "strategy.interval must be [start, stop] with 0 <= start < stop <= 1000, got [700, 200]"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"quantbooth: {line}\n")
    assert not list(tmp_path.glob("outputs/store"))


@pytest.mark.slow
def test_a_real_command_runs_the_chain_and_prints_the_table(base_folder: Path, tmp_path: Path) -> None:
    given = [*QUICK, f"base.path={base_folder}", "strategy=tas", "strategy.count=2", "sampler.steps=2"]
    first, again = (typed("quantbooth", *given, folder=tmp_path) for _ in range(2))
    for ended in (first, again):
        assert (ended.returncode, complaints(ended.stderr)) == (0, "")
        assert "CLIP-T" in ended.stdout
        assert "the page: outputs/reports/" in ended.stdout
    assert "tuning toy_mug-tas" in first.stderr
    assert "tuning" not in again.stderr
    for kind in ("quantized base", "scale sets", "image set", "scores"):
        assert f"found: {kind} " in again.stderr
