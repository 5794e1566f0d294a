"""quantbooth-verify: damage is found by name, and made again bit for bit without making anything else."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from composing import composed
from quantbooth.commands import verify
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.evaluate import evaluate
from quantbooth.commands.sample import sample
from quantbooth.commands.tune import tune
from quantbooth.run.run import Run
from quantbooth.store.files import checksums
from quantbooth.store.manifest import MANIFEST
from quantbooth.store.store import CONFIG

QUICK = (
    *(
        "base=folder",
        "base.resolution=32",
        "calibration=minmax",
        "sampler.steps=2",
        "prior.num_class_images=2",
        "prior.class_batch_size=1",
    ),
    *("tuner.steps=2", "preview.validation_steps=0", "protocol.prompt_stride=13", "protocol.eval_steps=[1]"),
)
Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.chain


@pytest.fixture(scope="module")
def finished(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    places = [f"base.path={base_folder}", f"paths.outputs={tmp_path_factory.mktemp('verify')}"]
    cfg = composed(*QUICK, "strategy=s2", "seed=21", *places)
    for work in (calibrate, tune, sample, evaluate):
        work(Run(cfg))
    return Path(cfg.paths.store)


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "store"))


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["quantbooth-verify", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        verify.main()
    return int(stop.value.code or 0)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def contents(store: Path) -> dict[str, str]:
    """Checksums of all files but manifests, which hold seconds, and options, which hold this copy's place."""
    return {name: value for name, value in checksums(store).items() if not name.endswith((MANIFEST, CONFIG))}


def test_a_sound_store_is_said_to_be(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert command(monkeypatch, store) == 0
    count = len(list(store.glob(f"*/*/{MANIFEST}")))
    assert f"{store}: {count} artifacts, {count} sound, 0 damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    "pattern",
    [
        "quantized_base/*/denoiser.safetensors",
        "quantized_base/*/manifest.json",
        "scale_sets/*/step-*.safetensors",
        "image_set/prior-*/*.png",
        "image_set/*-step*/*.png",
        "scores/*/rows.parquet",
    ],
)
def test_a_damaged_file_is_named_and_made_again_as_it_was(
    store: Path, pattern: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    before = contents(store)
    file = min(store.glob(pattern))
    flip(file)
    assert command(monkeypatch, store) == 1
    said = capsys.readouterr().err
    assert str(file.parent) in said
    assert file.name in said
    assert command(monkeypatch, store, "--repair") == 0
    assert f"made again: {file.parent}" in capsys.readouterr().err
    assert contents(store) == before
    assert command(monkeypatch, store) == 0


def test_a_child_is_made_again_after_its_parents(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(store)
    for pattern in ("scores/*/rows.parquet", "image_set/prior-*/*.png", "scale_sets/*/step-*.safetensors"):
        flip(min(store.glob(pattern)))
    assert command(monkeypatch, store, "--repair") == 0
    assert contents(store) == before


def test_options_that_make_something_else_make_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    file = min(store.glob("scale_sets/*/config.yaml"))
    file.write_text(file.read_text().replace("seed: 21", "seed: 22"))
    before = contents(store)
    assert command(monkeypatch, store, "--repair") == 1
    assert (
        f"not repaired: {file.parent}: the options in its config.yaml make another artifact" in capsys.readouterr().err
    )
    file.write_text("paths: {outputs: 1}\n")
    assert command(monkeypatch, store, "--repair") == 1
    file.write_text("paths: {store: '${oc.env:HOME}'}\n")
    assert command(monkeypatch, store, "--repair") == 1
    assert contents(store).keys() == before.keys()


def test_what_is_no_store_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, tmp_path / "gone") == 2
    assert command(monkeypatch, tmp_path) == 2


def test_a_repair_prints_nothing_of_libraries(store: Path) -> None:
    flip(next((store / "scale_sets").glob("*/step-*.safetensors")))
    words = [sys.executable, "-m", "quantbooth.commands.verify", str(store), "--repair"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert "made again" in done.stderr
    assert not re.search("available|Tip|deprecated", done.stderr)


@pytest.mark.parametrize("made_again", [False, True])
def test_what_a_killed_repair_set_aside_is_put_back_or_goes(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, made_again: bool
) -> None:
    folder = next((store / "scale_sets").iterdir())
    before = checksums(folder)
    aside = folder.with_name(f".{folder.name}.damaged")
    if made_again:
        shutil.copytree(folder, aside)
    else:
        folder.rename(aside)
    parts = store / "unfinished" / folder.name
    parts.mkdir(parents=True)
    assert command(monkeypatch, store, "--repair") == 0
    assert checksums(folder) == before
    assert not aside.exists()
    assert not parts.exists()
    assert " 0 damaged, 0 made again" in capsys.readouterr().out
    assert not [path for path in store.rglob(".*") if path.name != ".DS_Store"]


@pytest.mark.parametrize("typed", [(), ("--foo",), ("here", "extra"), ("-m", "here")])
def test_a_mistake_is_one_line(typed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert command(monkeypatch, *typed) == 2
    said = capsys.readouterr().err
    assert said.startswith("quantbooth: ") and said.count("\n") == 1


def test_what_no_command_would_find_is_told(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    scores = min(store.glob("scores/*"))
    moved, link = scores.with_name("mine"), scores.with_name("gone-0123456789ab")
    scores.rename(moved)
    link.symlink_to("nowhere")
    assert command(monkeypatch, store) == 1
    said = capsys.readouterr().err
    assert f"{moved} must end in -{scores.name[-12:]}" in said and str(link) in said
    shutil.rmtree(store / "scores")
    (store / "scores").touch()
    assert command(monkeypatch, store) == 2
    assert str(store / "scores") in capsys.readouterr().err


def test_the_advice_can_be_typed(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    odd = store.rename(store.with_name("my store's"))
    flip(min(odd.glob("scores/*/rows.parquet")))
    assert command(monkeypatch, odd) == 1
    advice = capsys.readouterr().err.split("quantbooth-verify ")[1].removesuffix(" makes it again\n")
    assert command(monkeypatch, *shlex.split(advice)) == 0
