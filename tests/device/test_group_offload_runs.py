"""Runs with group offloading: what is tuned and drawn has the bits of a run without it, and blocks are counted."""

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig

from pretend import SENT, Looks
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.pipeline import job
from quantbooth.commands.tune import prepared, tune
from quantbooth.run.offloading import require_offload
from quantbooth.run.run import Run
from quantbooth.runtime.progress import say_once
from quantbooth.tuning.files import last_step, read_snapshot
from quantbooth.tuning.graphs import ReplayGraphs
from quantbooth.tuning.optimizers import optimizer_factory

pytestmark = pytest.mark.device

Configure = Callable[..., DictConfig]
OFFLOAD = "resources.group_offload=true"
OWN = "quantbooth/quant/group_offload.py"
SETTINGS = {  # options, and how often a step calls the denoiser without gradient
    "subjects, s2, distilled": ("subjects=[toy_mug,toy_duck] strategy=s2 prior=distilled", 1),
    "QLoRA, apart, checkpointing": (
        "tuner=qlora strategy=s2 strategy.apart=true resources.gradient_checkpointing=true prior=none",
        0,
    ),
    "adaptive, EMA": (
        "strategy=adaptive strategy.bins=3 strategy.draws=1 strategy.count=2 tuner=scales tuner.ema_decay=0.9 "
        "prior=none",
        0,
    ),
}


def sent(looks: Looks) -> int:
    return sum(count for (kind, line), count in looks.items() if kind == SENT and OWN in line)


@pytest.mark.parametrize(("words", "teachers"), SETTINGS.values(), ids=list(SETTINGS))
def test_what_is_tuned_has_the_same_bits_and_blocks_are_sent_once_a_direction(
    configure: Configure, elsewhere: Configure, looks: Looks, words: str, teachers: int
) -> None:
    """The first step learns the order; where its end is not that of the others, so does the second."""
    options = (*words.split(), "tuner.steps=4")
    whole, run = Run(configure(*options)), Run(elsewhere(*options, OFFLOAD))
    for each in (whole, run):
        calibrate(each)
    expected = tune(whole)
    assert not sent(looks)
    found = tune(run)
    assert [one.name for one in found] == [one.name for one in expected]
    for one, other in zip(found, expected, strict=True):
        states = [read_snapshot(folder, last_step(folder)) for folder in (one, other)]
        torch.testing.assert_close(*states, rtol=0, atol=0)
    blocks = len(run.outline.blocks())
    assert sent(looks.steps[-1]) == 2 * (blocks - 2) + teachers * blocks
    assert not [line for kind, line in looks.waits if OWN in line]


@pytest.mark.chain
def test_pictures_have_the_same_bits(configure: Configure, elsewhere: Configure, looks: Looks) -> None:
    words = ("strategy=s2", "prior=generated", "preview.validation_steps=2")
    runs = [Run(configure(*words)), Run(elsewhere(*words, OFFLOAD))]
    for run in runs:
        calibrate(run)
    whole, offloaded = [job(run.cfg) for run in runs]
    assert sent(looks)
    assert [folder.name for folder in whole] == [folder.name for folder in offloaded]
    pictures = [
        {path.name: path.read_bytes() for path in sorted(run.only.images(run.steps[-1]).require().glob("*.png"))}
        for run in runs
    ]
    assert pictures[0] == pictures[1]
    assert len(pictures[0])


def test_graphs_are_off_with_it(configure: Configure, looks: Looks, capsys: pytest.CaptureFixture[str]) -> None:
    say_once.cache_clear()
    recorded = []
    for words in (["prior=none"], ["prior=none", OFFLOAD]):
        run = Run(configure(*words))
        run.check()
        require_offload(run)
        *_, callbacks = prepared(run, run.subjects, 0, optimizer_factory(run.settings["optimizer"]), None)
        recorded.append(sum(isinstance(one, ReplayGraphs) for one in callbacks))
        assert (OFFLOAD in words) == ("resources.cuda_graphs" in capsys.readouterr().err)
    assert recorded == [1, 0]
