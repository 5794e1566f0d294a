"""LoRA as a tuner: target layers, number of parameters, and refusals; the rest is in test_tuners."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from quantbooth.diffusion.base import Base
from quantbooth.quant.selection import SetSelection
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.strategies import baseline, s1, s2, tas
from quantbooth.tuning.tuners import LoraTuner

ZONES = {"clean_up": [0, 200], "content": [200, 700], "coarse": [700, 1000]}


@pytest.fixture
def base(small_base: Base) -> Base:
    return replace(small_base, denoiser=deepcopy(small_base.denoiser))


def test_float_and_packed_bases_have_a_name_each() -> None:
    with pytest.raises(UserError, match="^tuner=lora adapts float weights; choose quant=fp with it, or tuner=qlora$"):
        LoraTuner().check(baseline(1000), 4)
    with pytest.raises(
        UserError, match="^tuner=qlora adapts packed codes; choose quant=w8, w4, w3 or w2, or tuner=lora$"
    ):
        LoraTuner(quantized=True).check(baseline(1000), None)
    for strategy in (baseline(1000), s1([200, 700], "base", 1000), s2(ZONES, True, 1000), tas(4, 1000)):
        LoraTuner().check(strategy, None)
        LoraTuner(quantized=True).check(strategy, 4)


@pytest.mark.parametrize("sets", [1, 3])
def test_attentions_projections_are_adapted_by_rank_times_both_sides(base: Base, sets: int) -> None:
    learning = LoraTuner(rank=3).prepare_(base, sets, SetSelection())
    kinds = ("to_q", "to_k", "to_v", "to_out.0")
    sides = [sum(m.weight.shape) for name, m in base.denoiser.named_modules() if name.endswith(kinds)]
    assert list(learning) == ["adapters"]
    assert len(learning["adapters"]) == 2 * len(sides) > 0
    assert sum(numbers.numel() for numbers in learning["adapters"]) == sets * 3 * sum(sides)


def test_patterns_choose_other_layers_convolutions_too(base: Base) -> None:
    tuner = LoraTuner(include=["*.conv1", "conv_in"], exclude=["down_blocks.*"])
    tuner.prepare_(base, 1, SetSelection())
    names = {name.rpartition(".")[0] for name in tuner.state(base)}
    assert "conv_in" in names and all(name == "conv_in" or name.startswith("up_blocks.") for name in names)
    with pytest.raises(UserError, match=r"^include pattern 'to_z' must match a Linear or Conv2d layer, got none$"):
        LoraTuner(include=["to_z"]).prepare_(base, 1, SetSelection())


def test_alpha_scales_what_is_added(base: Base, small_base: Base) -> None:
    """The term with alpha = 6 at rank 2 is three times that of the same numbers with alpha = rank."""
    states = []
    for tuner in (LoraTuner(rank=2), LoraTuner(rank=2, alpha=6.0)):
        made = replace(small_base, denoiser=deepcopy(small_base.denoiser))
        with torch.no_grad():
            for numbers in tuner.prepare_(made, 1, SetSelection())["adapters"]:
                numbers.fill_(1)
        states.append(tuner.state(made))
    for name, rows in states[0].items():
        assert torch.equal(states[1][name], rows * (3 if name.endswith("B") else 1))


def test_the_seed_decides_what_is_drawn(small_base: Base) -> None:
    def drawn(seed: int) -> torch.Tensor:
        made, tuner = replace(small_base, denoiser=deepcopy(small_base.denoiser)), LoraTuner(seed=seed)
        tuner.prepare_(made, 1, SetSelection())
        return torch.cat([rows.flatten() for rows in tuner.state(made).values()])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_what_another_rank_learned_is_refused(base: Base, small_base: Base) -> None:
    tuner = LoraTuner(rank=2)
    tuner.prepare_(base, 1, SetSelection())
    fresh = replace(small_base, denoiser=deepcopy(small_base.denoiser))
    with pytest.raises(
        UserError, match=r"does not fit the denoiser: '.*lora_A' must have shape \(1, 4, \d+\), got \(1, 2,"
    ):
        LoraTuner(rank=4).load_(fresh, tuner.state(base), 1, SetSelection())


def test_experts_trained_apart_become_rows_in_their_order(small_base: Base) -> None:
    tuner, states = LoraTuner(rank=2, quantized=True), []
    for k in range(3):
        made = replace(small_base, denoiser=deepcopy(small_base.denoiser))
        with torch.no_grad():
            for numbers in tuner.prepare_(made, 1, SetSelection())["adapters"]:
                numbers.fill_(k)
        states.append(tuner.state(made))
    joined = tuner.join(states)
    assert all((rows.flatten(1) == torch.arange(3.0)[:, None]).all() for rows in joined.values())
