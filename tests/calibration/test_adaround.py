"""AdaRound on a block: its loss by hand, hard codes better than the nearest, the same result from the same seed."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from quantbooth.calibration.adaround import AdaRoundConfig, Roundings
from quantbooth.calibration.block_cache import BlockCache, CallArgs
from quantbooth.calibration.block_training import BlockTraining
from quantbooth.quant.format import Grid, dequantize
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.rounding import LearnedRounding, up

ITEMS, BITS = 24, 4


def config(**changes: Any) -> AdaRoundConfig:
    numbers = {"iterations": 60, "batch": 8, "learning_rate": 0.05, "penalty": 0.01, "warm_up": 0.2, "seed": 0}
    return AdaRoundConfig(**{**numbers, "beta": (20, 2), **changes})


class Block(nn.Module):
    """Two layers and what joins them, called with a positional and a named tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(5, 6)

    def forward(self, x: Tensor, added: Tensor) -> Tensor:
        found: Tensor = F.silu(self.one(x) + self.two(added)[:, :, None, None])
        return found


@pytest.fixture
def block() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Block().requires_grad_(False)


@pytest.fixture
def cache(tmp_path: Path, block: nn.Module, generator: torch.Generator) -> BlockCache:
    """As in a network, channels and places of x have to do with one another: errors can make up for one another."""
    hidden = F.interpolate(torch.randn(ITEMS, 2, 2, 2, generator=generator), size=5, mode="bilinear")
    x = torch.einsum("bchw,cd->bdhw", hidden, torch.randn(2, 4, generator=generator))
    added, cache = torch.randn(ITEMS, 5, generator=generator), BlockCache(tmp_path, ITEMS)
    cache.record(range(ITEMS), CallArgs((x,), {"added": added}), block(x, added))
    return cache


class Learning(BlockTraining):
    """With the parameterization by its type."""

    learned: Roundings

    def error_of_codes(self, codes: dict[str, Tensor]) -> float:
        return self.error_of(self.learned.rounded(codes))


def stage(block: nn.Module, cache: BlockCache, **changes: Any) -> Learning:
    roundings = {}
    for name in ("one", "two"):
        weight = block.get_submodule(name).get_parameter("weight")
        scale, zero = (
            values.view(-1, *[1] * (weight.ndim - 1)) for values in MinMaxObserver(Grid(BITS))(weight.flatten(1))
        )
        roundings[f"{name}.weight"] = LearnedRounding(weight, scale, zero, Grid(BITS))
    return Learning("block", block, Roundings(roundings, config(**changes)), cache, config(**changes))


def learned(made: Learning) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            max_steps=made.config.iterations,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        made.train_by(trainer)
    return made.learned.codes()


def by_hand(block: nn.Module, cache: BlockCache, weights: dict[str, Tensor]) -> float:
    """A loop over items, in float64."""
    wide, errors = Block().double(), []
    state = {**block.state_dict(), **weights}
    wide.load_state_dict({name: value.double() for name, value in state.items()})
    for place in range(ITEMS):
        given, target = cache.batch([place], torch.device("cpu"))
        gap = wide(given.args[0].double(), given.kwargs["added"].double()) - target.double()
        errors.append(float(gap.square().sum(1).mean().detach()))
    return sum(errors) / ITEMS


def test_the_error_is_the_sum_over_channels_and_the_mean_over_the_rest(block: nn.Module, cache: BlockCache) -> None:
    made = stage(block, cache)
    codes = made.learned.nearest
    weights = {
        name: dequantize(codes[name], rounding.scale.flatten(), rounding.zero.flatten())
        for name, rounding in zip(codes, made.learned.roundings, strict=True)
        if isinstance(rounding, LearnedRounding)
    }
    assert made.error_of_codes(codes) == pytest.approx(by_hand(block, cache, weights), rel=1e-5)
    assert made.error_of_codes(codes) > 0


@pytest.mark.parametrize("seed", [0, 1])
def test_learned_codes_serve_the_output_better_than_the_nearest(block: nn.Module, cache: BlockCache, seed: int) -> None:
    made = stage(block, cache, seed=seed, iterations=300)
    before = {name: value.clone() for name, value in block.state_dict().items()}
    codes = learned(made)
    assert made.error_of_codes(codes) < 0.5 * made.error_of_codes(made.learned.nearest)
    assert any(not torch.equal(codes[name], made.learned.nearest[name]) for name in codes)
    apart = [codes[name].int() - made.learned.nearest[name].int() for name in codes]
    assert max(int(gap.abs().max()) for gap in apart) == 1
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


@pytest.mark.chain
def test_the_penalty_leaves_nothing_between_two_codes(block: nn.Module, cache: BlockCache) -> None:
    def undecided(penalty: float) -> int:
        made = stage(block, cache, iterations=300, penalty=penalty)
        learned(made)
        ups = [up(rounding.v) for rounding in made.learned.roundings if isinstance(rounding, LearnedRounding)]
        return sum(int(((up > 0.05) & (up < 0.95)).sum()) for up in ups)

    assert undecided(0.1) < 0.05 * 246
    assert undecided(0.0) > 3 * undecided(0.1)


def test_the_same_seed_learns_the_same_bit_for_bit_and_another_does_not(block: nn.Module, cache: BlockCache) -> None:
    def numbers(seed: int) -> Tensor:
        made = stage(block, cache, seed=seed)
        learned(made)
        return torch.cat([value.flatten() for value in made.learned.roundings.state_dict().values()])

    torch.manual_seed(1)
    first = numbers(0)
    torch.manual_seed(2)
    assert torch.equal(numbers(0), first)
    assert not torch.equal(numbers(1), first)


def test_beta_falls_along_a_line_after_the_warm_up() -> None:
    schedule = config(iterations=100, warm_up=0.2)
    assert schedule.beta_at(0) is schedule.beta_at(19) is None
    assert schedule.beta_at(20) == 20
    assert schedule.beta_at(60) == 11
    assert schedule.beta_at(100) == 2


def test_the_penalty_is_the_weighted_sum_over_all_weights_once_it_has_begun(
    block: nn.Module, cache: BlockCache
) -> None:
    learned = stage(block, cache, iterations=100, warm_up=0.2, beta=(20, 2), penalty=0.01).learned
    assert learned.penalty(19) is None
    for step, beta in ((20, 20.0), (60, 11.0)):
        h = torch.cat([up(rounding.v.detach()).double().flatten() for _, rounding in learned._named])
        found = learned.penalty(step)
        assert found is not None
        assert float(found.detach()) == pytest.approx(0.01 * float((1 - (2 * h - 1).abs() ** beta).sum()), rel=1e-5)
