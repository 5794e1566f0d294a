"""What every test shares: one thread, no network, no display, tiny bases, commands, tuning stages."""

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import Precision
from omegaconf import DictConfig

from composing import composed
from experiments.reliability.tiny import write_tiny_base
from quantbooth.calibration.calibration_set import CalibrationSet, write_states, write_texts
from quantbooth.diffusion.base import Base, frozen
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.router import route_
from quantbooth.quant import scale_sets
from quantbooth.quant.format import Grid
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.scale_sets import OUTPUTS, Parts
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import quantize_
from quantbooth.runtime.lightning import Loop
from quantbooth.timesteps.zones import Zones, zones_from_borders
from quantbooth.tuning import overfitting
from quantbooth.tuning.module import TuningModule
from quantbooth.tuning.overfitting import BINS
from quantbooth.tuning.recipe import Examples, Recipe
from quantbooth_toyworld.models import DENOISER, new_denoiser, untrained_base
from shape_checker import begin
from stderr import complaints

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", WANDB_MODE="offline", MPLBACKEND="Agg")
os.environ.pop("QUANTBOOTH_STORE", None)


def pytest_collection_finish() -> None:
    """Leaves a million objects of imported libraries out of garbage collections; every command collects at its end."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    begin()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    begin()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def one_bin() -> Iterator[None]:
    """Measures overfitting in one timestep bin: in all, it is most of the work of a tuning of a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overfitting, "BINS", 1)
        yield


@pytest.fixture
def all_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures overfitting in all timestep bins, as a user has them."""
    monkeypatch.setattr(overfitting, "BINS", BINS)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Leaves annotations unchecked, as a user has them, where a function's own look at its arguments is tested."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def loop() -> Loop:
    """What plain loops run by, on the CPU in float32."""
    return Loop(torch.device("cpu"), Precision())


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained toy base with the smallest denoiser there can be; nobody writes into it."""
    return write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def compose(base_folder: Path) -> Callable[..., DictConfig]:
    """Composes a configuration on the tiny base as the command line does: of the place of outputs, and options."""

    def make(outputs: Path, *options: str) -> DictConfig:
        return composed(f"base.path={base_folder}", f"paths.outputs={outputs}", *options)

    return make


@pytest.fixture
def typed(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs a command on the tiny base as if typed, in this process; gives its exit code and what it complained of."""
    handlers = logging.root.handlers[:]

    def run(program: Callable[[], None], *words: str) -> tuple[int, str]:
        settings = [f"base.path={base_folder}", f"paths.outputs={tmp_path}/out", *words]
        monkeypatch.setattr(sys, "argv", ["quantbooth", *sorted(settings, key=lambda word: word != "-m")])
        with pytest.raises(SystemExit) as ended:
            program()
        return int(str(ended.value.code)), complaints(capsys.readouterr().err)

    yield run
    logging.root.handlers[:] = handlers


@pytest.fixture(scope="session")
def words() -> list[str]:
    sentence = "a photo of red striped mug duck wearing rainbow scarf on the beach in front brick wall sks"
    return sentence.split()


@pytest.fixture(scope="session")
def base(words: list[str]) -> Base:
    return frozen(untrained_base(words, seed=0))


SMALL = {
    **DENOISER,
    **{"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 2, "mid_block_type": None},
    **{"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")},
    **{"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
}

ZONES = zones_from_borders({"clean_up": [0, 200], "content": [200, 700], "coarse": [700, 1000]}, 1000)
RECIPE = Recipe(
    steps=3,
    train_batch_size=2,
    class_batch_size=1,
    prior_loss_weight=0.5,
    loss_weight_max=8.0,
    lr_scheduler="cosine",
    seed=0,
)

MakeStage = Callable[..., TuningModule]


@pytest.fixture(scope="session")
def small_base() -> Base:
    base = untrained_base(["a", "photo", "of", "red", "mug", "duck", "on", "the", "beach", "sks"], seed=0)
    torch.manual_seed(0)
    return frozen(replace(base, denoiser=new_denoiser(SMALL)))


@pytest.fixture(scope="session")
def quantized(small_base: Base) -> Callable[[], Any]:
    """Makes the untuned quantized denoiser, a new one each time."""
    denoiser = deepcopy(small_base.denoiser)
    quantize_(denoiser, MinMaxObserver(Grid(4)), exclude=["conv_in", "conv_out"])
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

    def make(zones: Zones = ZONES, seen: Examples = examples, parts: Parts = OUTPUTS, **recipe: Any) -> TuningModule:
        base, selection = small_base.with_denoiser(quantized()).denoiser_alone, SetSelection()
        scale_sets.attach_(base.denoiser, len(zones), selection, parts)
        route_(base, zones.index, selection)
        learning = scale_sets.parameters(base.denoiser)
        return TuningModule(base, learning, [seen], zones, replace(RECIPE, **recipe), adamw)

    return make


@pytest.fixture(scope="session")
def fit() -> Callable[..., None]:
    """Trains a stage for as many steps as its recipe says."""

    def run(stage: Any, callbacks: Sequence[Callback] = (), precision: Any = "32-true") -> None:
        trainer = Trainer(
            accelerator="cpu",
            precision=precision,
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
