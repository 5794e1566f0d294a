"""A toy base with a very small random denoiser, and tuning stages on fresh quantized copies of it."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from quantbooth.artifacts.calibration_set import CalibrationSet, write_states, write_texts
from quantbooth.diffusion.base import Base, frozen
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.router import route_
from quantbooth.quant import scale_sets
from quantbooth.quant.grid import Grid
from quantbooth.quant.scale_search import MinMax
from quantbooth.quant.scale_sets import OUTPUTS, Parts
from quantbooth.quant.selection import Selection
from quantbooth.quant.surgery import quantize_
from quantbooth.stages.tuning import Examples, Recipe, TuningStage
from quantbooth.timesteps.zones import Zones, zones_from_borders
from quantbooth.toyworld.models import DENOISER, new_denoiser, untrained_base

SMALL = {
    **DENOISER,
    **{"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 2, "mid_block_type": None},
    **{"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")},
    **{"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
}

ZONES = zones_from_borders({"clean_up": [0, 200], "content": [200, 700], "coarse": [700, 1000]}, 1000)
RECIPE = Recipe(steps=3, subject_batch=2, prior_batch=1, prior_weight=0.5, weight_bound=8.0, decay=True, seed=0)

MakeStage = Callable[..., TuningStage]


@pytest.fixture(scope="session")
def small_base() -> Base:
    base = untrained_base(["a", "photo", "of", "red", "mug", "duck", "on", "the", "beach", "sks"], seed=0)
    torch.manual_seed(0)
    return frozen(replace(base, denoiser=new_denoiser(SMALL)))


@pytest.fixture(scope="session")
def quantized(small_base: Base) -> Callable[[], Any]:
    """Makes the untuned quantized denoiser, a new one each time."""
    denoiser = deepcopy(small_base.denoiser)
    quantize_(denoiser, MinMax(Grid(4)), exclude=["conv_in", "conv_out"])
    return lambda: deepcopy(denoiser)


@pytest.fixture(scope="session")
def examples() -> Examples:
    """Five photos and four class pictures, random, each beside its own sentence."""
    draw = torch.Generator().manual_seed(7)
    subject, prior = torch.randn(5, 24, 8, 8, generator=draw), torch.randn(4, 24, 8, 8, generator=draw)
    texts = torch.randn(2, 26, 128, generator=draw)
    return Examples(subject, Conditioning(texts[:1]), prior, Conditioning(texts[1:]))


@pytest.fixture(scope="session")
def new_stage(quantized: Callable[[], Any], small_base: Base, examples: Examples) -> MakeStage:
    """Makes a stage as quantbooth-tune does: three zones, three steps, unless told otherwise."""

    def make(zones: Zones = ZONES, seen: Examples = examples, parts: Parts = OUTPUTS, **recipe: Any) -> TuningStage:
        base, selection = small_base.with_denoiser(quantized()).denoiser_alone, Selection()
        scale_sets.attach_(base.denoiser, len(zones), selection, parts)
        route_(base, zones.index, selection)
        learning = scale_sets.parameters(base.denoiser)
        return TuningStage(base, learning, [seen], zones, replace(RECIPE, **recipe), adamw)

    return make


@pytest.fixture(scope="session")
def fit() -> Callable[..., None]:
    """Trains a stage for as many steps as its recipe says."""

    def run(stage: Any, callbacks: Sequence[Callback] = ()) -> None:
        trainer = Trainer(
            accelerator="cpu",
            max_steps=stage.recipe.steps,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=list(callbacks),
        )
        trainer.fit(stage)

    return run


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)


@pytest.fixture
def items(tmp_path: Path, small_base: Base, generator: torch.Generator) -> CalibrationSet:
    """Two sentences at three timesteps, random states."""
    folder = tmp_path / "set"
    folder.mkdir()
    write_states(folder, 0, torch.randn(2, 3, *small_base.latent_shape, generator=generator))
    texts = small_base.encode_prompts(["", "a red mug", "a duck"]).detach()
    write_texts(folder, ["a red mug", "a duck"], texts, [900.0, 500.0, 100.0], 2)
    return CalibrationSet(folder)


@pytest.fixture
def quiet_trainer() -> Callable[[int], Callable[[str], Trainer]]:
    """Makes, from a number of steps, what makes trainers that say nothing."""

    def made(steps: int) -> Callable[[str], Trainer]:
        silent: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
        return lambda _what: Trainer(accelerator="cpu", max_steps=steps, enable_checkpointing=False, **silent)

    return made
