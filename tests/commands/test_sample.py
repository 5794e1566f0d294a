"""quantbooth-sample prompt=...: a person's sentences drawn by what was tuned, each picture once."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from omegaconf import DictConfig
from PIL import Image

from quantbooth.commands import pipeline
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.sample import generate
from quantbooth.commands.sample import job as draw
from quantbooth.commands.tune import tune
from quantbooth.run.reopened import reopened
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.progress import say_once

Configure = Callable[..., DictConfig]
Compose = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "prior=none", "strategy=s2"),
    *("tuner.steps=2", "preview.validation_steps=0", "tuner.learning_rate=0.2"),
)


@pytest.fixture(scope="module")
def configure(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration on a tiny untrained base that is tuned already; all share one store."""
    make = partial(compose, tmp_path_factory.mktemp("sample") / "out", *QUICK)
    calibrate(Run(make()))
    tune(Run(make()))
    return make


@pytest.mark.chain
def test_sentences_are_drawn_onto_a_sheet_and_never_twice(configure: Configure, tmp_path: Path) -> None:
    words = ('prompt=["a {} on the moon","a dog"]', "protocol.seeds=[0,3]", f"pictures={tmp_path}")
    *pictures, sheet = generate(Run(configure(*words)))
    name = Run(configure()).only.tuned.require().name
    assert {picture.parent for picture in pictures} == {tmp_path / name}
    assert [picture.name.rpartition("-")[0] for picture in pictures] == [
        *("a-sks-mug-on-the-moon-seed0", "a-sks-mug-on-the-moon-seed3", "a-dog-seed0", "a-dog-seed3")
    ]
    assert {Image.open(picture).size for picture in pictures} == {(32, 32)}
    assert Image.open(sheet).width > 2 * 192
    times = {picture: picture.stat().st_mtime_ns for picture in pictures}
    (again, _) = generate(Run(configure("prompt=a dog", "protocol.seeds=[3]", f"pictures={tmp_path}")))
    assert again == pictures[3]
    assert times == {picture: picture.stat().st_mtime_ns for picture in pictures}
    assert sorted(path.suffix for path in (tmp_path / name).iterdir()) == [".png"] * 6


@pytest.mark.parametrize("words", [(), ("prompt='a {}'",)])
@pytest.mark.chain
def test_what_no_step_of_another_sampler_uses_is_named(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    say_once.cache_clear()
    generate(Run(configure(*words, "sampler.steps=1", "strength={600-700:0}", f"pictures={tmp_path}")))
    told = [line for line in capsys.readouterr().err.splitlines() if "none of the 1 timesteps" in line]
    assert [line.partition(" is in ")[2].partition(",")[0] for line in told] == [
        *("content [354", "coarse [934", "600-700 of strength")
    ]
    generate(Run(configure(*words, "sampler.steps=20", f"pictures={tmp_path}")))
    assert "none of the" not in capsys.readouterr().err


def test_a_folder_of_scale_sets_stands_for_the_setting_and_batches_change_nothing(
    configure: Configure, tmp_path: Path
) -> None:
    tuned = Run(configure()).only.tuned.require()
    words = ("prompt=a dog", "protocol.seeds=[0,1,2]")
    others = (f"scale_sets={tuned}", "protocol.batch=auto", f"pictures={tmp_path}/b")
    one, other = (
        generate(Run(configure(*words, f"pictures={tmp_path}/a"))),
        generate(reopened(configure(*words, *others, "strategy=baseline", "subject=toy_duck"), (*words, *others))[0]),
    )
    assert [path.name for path in one] == [path.name for path in other]
    for mine, yours in zip(one, other, strict=True):
        left, right = (list(Image.open(path).convert("RGB").tobytes()) for path in (mine, yours))
        assert max(abs(a - b) for a, b in zip(left, right, strict=True)) <= 1


def test_pictures_of_another_precision_have_other_names(configure: Configure, tmp_path: Path) -> None:
    words = ("prompt=a dog", f"pictures={tmp_path}/p", f"scale_sets={Run(configure()).only.tuned.require()}")
    half, whole = (
        generate(reopened(configure(*words, *more), [*words, *more])[0])[0]
        for more in (["trainer.precision=bf16-mixed"], [])
    )
    assert half != whole


def test_a_damaged_scale_set_is_refused_before_the_untuned_base_draws(compose: Compose, tmp_path: Path) -> None:
    run = Run(compose(tmp_path / "out", *QUICK, "protocol.prompt_stride=25"))
    calibrate(run)
    file = tune(run)[0] / "step-000002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"step-000002\.safetensors"):
        generate(Run(compose(tmp_path / "out", *QUICK, "protocol.prompt_stride=25")))
    assert not list((tmp_path / "out" / "store").glob("image_set/*"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("scale_sets=nowhere",),
            r"^scale_sets=nowhere names nothing in .*; quantbooth-list paths\.store=\S+ shows all$",
        ),
        (("scale_sets=./nowhere",), r"^nowhere must hold scale sets, found nothing; make it with quantbooth-tune$"),
        (("seed=9",), r"lacks scale sets of these settings; make it with quantbooth-tune and the same options$"),
    ],
)
def test_what_cannot_be_drawn_is_told(configure: Configure, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        draw(configure("prompt=a dog", f"pictures={tmp_path}/x", *words))
    assert not (tmp_path / "x").exists()


def test_the_whole_chain_does_not_swallow_a_prompt(configure: Configure) -> None:
    with pytest.raises(UserError, match=r"^prompt is .* quantbooth-sample, after tuning; leave it out here$"):
        pipeline.job(configure("prompt=a dog"))
