"""Group offloading in options and plans: refused where it has no effect, and counted with two blocks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from quantbooth.commands import plan, sample, tune
from quantbooth.planning.stages import Peak, Quantized
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.surgery import matching
from quantbooth.run.planned import ADVICE, advice, stages
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError

Compose = Callable[..., DictConfig]
OFFLOAD = "resources.group_offload=true"
BASE = ("base=folder", "base.resolution=32", "prior=none", "tuner.train_batch_size=1", "protocol.batch=1")


@pytest.mark.parametrize("command", [tune, sample, plan])
def test_it_is_refused_on_a_cpu(compose: Compose, tmp_path: Path, command: object) -> None:
    with pytest.raises(UserError, match=f"{OFFLOAD} .* trainer.accelerator=cpu"):
        command.check_job(compose(tmp_path, *BASE, OFFLOAD))  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", [tune, sample, plan])
def test_it_is_refused_without_packed_codes(compose: Compose, tmp_path: Path, command: object) -> None:
    with pytest.raises(UserError, match=f"{OFFLOAD} .* quant=fp"):
        command.check_job(compose(tmp_path, *BASE, OFFLOAD, "tuner=lora", "quant=fp"))  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [0, 2])
def test_too_few_blocks_are_refused_before_work(compose: Compose, tmp_path: Path, count: int) -> None:
    base = Run(compose(tmp_path, *BASE)).outline
    words = [f"{name}.*" for name in base.blocks()[:count]] or ["conv_in"]
    cfg = compose(tmp_path, *BASE, "trainer=gpu", OFFLOAD, f"quant.include=[{','.join(words)}]", "quant.exclude=[]")
    with pytest.raises(UserError, match=f"{OFFLOAD} needs 3 or more blocks .*, found {count};"):
        plan.check_job(cfg)


def counted(cfg: DictConfig, stage: str) -> Peak:
    return stages(Run(cfg))[stage]()


@pytest.mark.parametrize("stage", ["tuning", "sampling"])
def test_a_plan_counts_two_blocks_and_the_rest(compose: Compose, tmp_path: Path, stage: str) -> None:
    words = (*BASE, "trainer=gpu", "resources.gradient_checkpointing=true")
    whole, offloaded = (counted(compose(tmp_path, *words, *more), stage) for more in ((), (OFFLOAD,)))
    run = Run(compose(tmp_path, *words))
    base, (include, exclude) = run.outline, run.calibration.layers
    Quantized(matching(base.denoiser, include, exclude), 4).apply_(base.denoiser)
    sizes = sorted(
        sum(layer.codes.nbytes for _, layer in quantized_layers(base.denoiser.get_submodule(name)))
        for name in base.blocks()
    )
    assert offloaded.parts["two blocks"] == 2 * sizes[-1]
    assert offloaded.parts["denoiser outside of blocks"] == whole.parts["denoiser"] - sum(sizes)
    assert whole.peak - offloaded.peak == sum(sizes) - 2 * sizes[-1]


def test_it_is_the_last_advice(compose: Compose, tmp_path: Path) -> None:
    assert {words[-1] for words in ADVICE.values()} == {OFFLOAD}
    cfg = compose(tmp_path, *BASE, "trainer=gpu", "resources.gradient_checkpointing=true")
    found = counted(cfg, "tuning")
    taken, least = advice(Run(cfg), found, found.peak - 1)
    assert taken == (OFFLOAD,)
    assert least < found.peak
