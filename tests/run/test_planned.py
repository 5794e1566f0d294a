"""The plan of a run: its figures are those of the finished work, and options that do not fit end it."""

import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from omegaconf import DictConfig

from quantbooth.commands import plan
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.tune import tune
from quantbooth.planning.stages import Peak
from quantbooth.run.planned import advice, stages, uncounted
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.files import snapshot_path

pytestmark = pytest.mark.chain

Compose = Callable[..., DictConfig]
BASE = ("base=folder", "base.resolution=32")
STAGES = ("calibration", "encoding", "tuning", "sampling")
SMALL = (*BASE, "prior=none", "tuner.train_batch_size=1", "protocol.batch=1")


def planned(cfg: DictConfig, *of: str) -> dict[str, Peak]:
    """Return the peaks of all stages, or of some."""
    found = stages(Run(cfg))
    return {name: found[name]() for name in of or found}


@pytest.fixture(scope="module")
def default(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Peak]:
    return planned(compose(tmp_path_factory.mktemp("outputs"), *SMALL))


def test_every_stage_has_a_peak_that_holds_its_parts(default: dict[str, Peak]) -> None:
    assert tuple(default) == STAGES
    assert all(0 < sum(one.parts.values()) <= one.peak for one in default.values())


def test_a_step_needs_what_its_options_say(default: dict[str, Peak], compose: Compose, tmp_path: Path) -> None:
    words = ("tuner.train_batch_size=2", "resources.cache_latents=false", "quant=w8")
    two = planned(compose(tmp_path, *SMALL, *words), "tuning")
    kept = [each["tuning"].parts["kept activations"] for each in (default, two)]
    assert kept[1] == pytest.approx(2 * kept[0], rel=0.05)
    assert two["tuning"].parts["denoiser"] > default["tuning"].parts["denoiser"]
    assert "autoencoder" in two["tuning"].parts and "text encoders" not in two["tuning"].parts


def test_checkpointing_keeps_less_on_a_card_that_is_not_here(compose: Compose, tmp_path: Path) -> None:
    one, other = (
        planned(compose(tmp_path, *SMALL, "trainer=gpu", word), "tuning")["tuning"]
        for word in ("resources.gradient_checkpointing=false", "resources.gradient_checkpointing=true")
    )
    assert other.parts["kept activations"] < one.parts["kept activations"]


def test_a_card_needs_less_with_tritons_kernels_than_with_pytorchs(
    default: dict[str, Peak], compose: Compose, tmp_path: Path
) -> None:
    fused, eager, cpu = (
        planned(compose(tmp_path, *SMALL, *words), "tuning")["tuning"]
        for words in (
            ("trainer=gpu",),
            ("trainer=gpu", "resources.kernels=eager"),
            ("resources.kernels=fused",),
        )
    )
    assert fused.peak < eager.peak
    assert cpu == default["tuning"]


def test_a_published_clip_is_counted(compose: Compose, tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    found = stages(Run(compose(tmp_path, *SMALL, "scorer=clip_b32", "locator=whole")))["scoring"]()
    assert found.parts["encoder"] == 4 * (151_277_313 + 77 * 77) < found.peak  # weights of ViT-B/32 and its mask


@pytest.mark.parametrize(
    "words",
    [
        ("strategy=s2", "prior=prompted"),
        ("strategy=s1s2", "tuner.ema_decay=0.9"),
        ("tuner=full", "quant=fp", "prior=distilled"),
        ("tuner=qlora", "tuner.dco_beta=1000", "prior=generated"),
        ("tuner.identifier=true",),
        ("subjects=[toy_mug,toy_duck]", "calibration=minmax", "quant.split_skips=true"),
    ],
    ids=str,
)
def test_every_kind_of_run_has_a_plan(words: tuple[str, ...], compose: Compose, tmp_path: Path) -> None:
    assert planned(compose(tmp_path, *BASE, *words))["tuning"].peak > 0


def test_files_are_those_of_the_finished_work(default: dict[str, Peak], compose: Compose, tmp_path: Path) -> None:
    run = Run(compose(tmp_path, *SMALL, "tuner.steps=1", "preview.validation_steps=0", "calibration=minmax"))
    calibrate(run)
    (folder,) = tune(run)
    assert run.quantized_base is not None
    base = run.quantized_base.require() / "denoiser.safetensors"
    for file, planned_bytes in (
        (base, default["calibration"].files["quantized base"]),
        (snapshot_path(folder, 1), default["tuning"].files["what is tuned"]),
    ):
        assert 0 <= file.stat().st_size - planned_bytes < 40_000  # names and shapes at the beginning


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("tuner=lora",), "quant=fp"),
        (("prior.num_class_images=0", "prior.target=noise"), "prior.num_class_images"),
        (("base.resolution=64",), "base.resolution"),
        (("base.path=nowhere",), "base.path"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    words: tuple[str, ...], named: str, compose: Compose, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=named):
        plan.check_job(compose(tmp_path, *BASE, *words))


def said(cfg: DictConfig, machine: int = 10**12, speed: float | None = None) -> str:
    return "\n".join(plan.lines(Run(cfg), 10**9, machine, speed))


def test_what_cannot_be_planned_is_refused_before_the_first_line(compose: Compose, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quant=as_stored"):
        next(plan.lines(Run(compose(tmp_path, *SMALL, "quant=as_stored")), 10**9, 10**9, None))


def test_a_plan_ends_with_whether_the_run_fits(compose: Compose, tmp_path: Path) -> None:
    assert said(compose(tmp_path, *SMALL)).endswith("fits in 1000.00 GB")
    assert "fits" not in said(compose(tmp_path, *SMALL, "trainer=gpu"))
    assert said(compose(tmp_path, *SMALL, "preset=8gb")).endswith("fits in 8.00 GB")
    small = said(compose(tmp_path, *SMALL), 10**9).splitlines()
    assert [line.split()[0] for line in small if "does not fit in 1.00 GB" in line] == list(STAGES)


def test_work_grows_with_what_is_asked_and_time_is_work_over_speed(
    default: dict[str, Peak], compose: Compose, tmp_path: Path
) -> None:
    more = planned(compose(tmp_path, *SMALL, "tuner.train_batch_size=3", "sampler.steps=24"), "tuning", "sampling")
    fewer = planned(compose(tmp_path, *SMALL, "sampler.steps=12", "protocol.batch=2"), "sampling")
    assert more["tuning"].flops == pytest.approx(3 * default["tuning"].flops, rel=0.01)
    at = {25: default["sampling"].flops, 24: more["sampling"].flops, 12: fewer["sampling"].flops}
    assert at[24] - at[12] == pytest.approx(12 * (at[25] - at[24]), rel=0.01)  # decoding is done once
    cfg = compose(tmp_path, *SMALL, "tuner.steps=50", "strategy=s2", "strategy.apart=true")
    text = said(cfg, speed=1e9).splitlines()
    (work,), (time,) = ([line for line in text if line.startswith(word)] for word in ("work:", "time:"))
    assert "150 batches of" in work
    seconds = 150 * planned(cfg, "tuning")["tuning"].flops / 1e9
    assert f"tuning {timedelta(seconds=math.ceil(seconds))}," in time
    assert "time: not estimated, since the run's device is not here" in said(cfg)


def test_advice_was_tried(compose: Compose, tmp_path: Path) -> None:
    words = (*BASE, "prior=none", "trainer=gpu", "trainer.precision=32-true", "protocol.batch=8")
    cfg = compose(tmp_path, *words)
    found = planned(cfg, "encoding", "tuning", "sampling")
    for stage, wanted in (("tuning", "resources.gradient_checkpointing=true"), ("sampling", "protocol.batch=1")):
        taken, least = advice(Run(cfg), found[stage], found[stage].peak - 1)
        assert taken == (wanted,)
        assert planned(compose(tmp_path, *words, *taken), stage)[stage].peak == least < found[stage].peak
    assert advice(Run(cfg), found["encoding"], 0) == ((), found["encoding"].peak)


def test_what_is_not_counted_is_named(compose: Compose, tmp_path: Path) -> None:
    run = Run(compose(tmp_path, *BASE, "calibration=qdiffusion", "locator=clipseg", "strategy=adaptive"))
    said = "\n".join(uncounted(run))
    assert all(word in said for word in ("learned rounding", "scorer.encoder", "locator", "gradients"))
