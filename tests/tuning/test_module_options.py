"""Every training option from the first step to the pictures: it trains, repeats, and round-trips through disk."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.router import route_
from quantbooth.diffusion.sampler import Sampler
from quantbooth.quant.selection import SetSelection
from quantbooth.sampling.image_set import Request
from quantbooth.sampling.module import SamplingModule, image_jobs
from quantbooth.timesteps.zones import Zones, equal_zones, zones_from_borders
from quantbooth.tuning.callbacks import SampleGrids, Snapshots
from quantbooth.tuning.encoding import TrainablePrompt
from quantbooth.tuning.files import read_snapshot, write_snapshot
from quantbooth.tuning.module import TuningModule
from quantbooth.tuning.recipe import Examples, Recipe
from quantbooth.tuning.tuner import State, Tuner
from quantbooth.tuning.tuners import FullTuner, IdentifierTuner, ScaleTuner

pytestmark = pytest.mark.chain

MakeDenoiser = Callable[[], Any]
Fit = Callable[..., None]
THREE = zones_from_borders({"clean_up": [0, 200], "content": [200, 700], "coarse": [700, 1000]}, 1000)
SENTENCE, WITHOUT = "a photo of a sks mug", "a photo of a mug"
WATCHED = [Request(f"{i}.png", text, text, text, "plain", 0) for i, text in enumerate([SENTENCE, "a red duck"])]
RATES = {"shifts": 0.005, "identifier": 0.02}
RECIPE = Recipe(3, 2, 1, prior_loss_weight=0.5, loss_weight_max=8.0, lr_scheduler="cosine", seed=0, rates=RATES)
EVERYTHING = ScaleTuner(inputs=True, biases=True, norms=True)
OPTIONS: dict[str, tuple[Tuner, float | None]] = {
    "inputs": (ScaleTuner(inputs=True), None),
    "biases": (ScaleTuner(biases=True), None),
    "norms": (ScaleTuner(norms=True), None),
    "average": (ScaleTuner(), 0.9),
    "identifier": (IdentifierTuner(ScaleTuner(), SENTENCE, WITHOUT), None),
    "everything": (IdentifierTuner(EVERYTHING, SENTENCE, WITHOUT), 0.9),
    "full": (FullTuner(), 0.9),
    "full, identifier": (IdentifierTuner(FullTuner(), SENTENCE, WITHOUT), 0.9),
}


def adamw(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.0)


class Run:
    """Three steps of tuning as quantbooth-tune does them."""

    def __init__(self, tuner: Tuner, average: float | None, base: Base, examples: Examples, folder: Path) -> None:
        selection, self.base = SetSelection(), base
        learning = tuner.prepare_(base, len(self.zones(tuner)), selection)
        route_(base, self.zones(tuner).index, selection)
        sentences = [TrainablePrompt(base, SENTENCE)] if "identifier" in learning else None
        recipe = replace(RECIPE, ema_decay=average)
        self.stage = TuningModule(base, learning, [examples], self.zones(tuner), recipe, adamw, sentences)
        self.start = [numbers.detach().clone() for numbers in self.stage.numbers]
        self.states: dict[int, State] = {}
        self.snapshots = Snapshots(tuner, base, [3], self.states.__setitem__, self.stage.kept)
        self.grids = SampleGrids(lambda: base, Sampler("ddim", 2, 4.0), WATCHED, 3, folder, self.stage.kept)

    @staticmethod
    def zones(tuner: Tuner) -> Zones:
        return equal_zones(1, 1000) if tuner.kind == "tuned_weights" else THREE

    @property
    def state(self) -> State:
        return self.states[3]

    def pictures(self) -> torch.Tensor:
        """Of the numbers that are kept."""
        with self.stage.kept():
            stage = SamplingModule(self.grids.base(), self.grids.sampler, self.grids.jobs)
            return stage.render(stage.jobs)


@pytest.fixture(params=OPTIONS)
def option(request: pytest.FixtureRequest) -> tuple[Tuner, float | None]:
    return OPTIONS[request.param]


@pytest.fixture
def fresh(quantized: MakeDenoiser, small_base: Base) -> Callable[[Tuner], Base]:
    def make(tuner: Tuner) -> Base:
        denoiser = quantized() if tuner.kind == "scale_sets" else deepcopy(small_base.denoiser)
        return small_base.with_denoiser(denoiser).with_text_encoder(deepcopy(small_base.text_encoder))

    return make


def test_it_learns_repeats_bit_for_bit_and_comes_back_from_disk_the_same(
    option: tuple[Tuner, float | None],
    fresh: Callable[[Tuner], Base],
    examples: Examples,
    fit: Fit,
    tmp_path: Path,
) -> None:
    tuner, average = option
    runs = []
    for place in range(2):
        torch.manual_seed(place)
        run = Run(tuner, average, fresh(tuner), examples, tmp_path / str(place))
        fit(run.stage, [run.snapshots, run.grids])
        runs.append(run)
    one, again = runs
    for kind, numbers in one.stage.learning.items():
        assert all(torch.isfinite(parameter).all() for parameter in numbers), kind
        assert any((parameter != 1).any() and (parameter != 0).any() for parameter in numbers), kind
    moved = [not torch.equal(now, then) for now, then in zip(one.stage.numbers, one.start, strict=True)]
    assert all(moved)
    assert all(torch.equal(tensor, again.state[name]) for name, tensor in one.state.items())
    grids = [(tmp_path / str(place) / "step-000003.png").read_bytes() for place in range(2)]
    assert grids[0] == grids[1]

    write_snapshot(tmp_path, 3, one.state)
    loaded, selection = fresh(tuner), SetSelection()
    zones = Run.zones(tuner)
    tuner.load_(loaded, read_snapshot(tmp_path, 3), len(zones), selection)
    route_(loaded, zones.index, selection)
    asked = image_jobs(WATCHED, tmp_path)
    pictures = SamplingModule(loaded, Sampler("ddim", 2, 4.0), asked).render(asked)
    assert torch.equal(pictures, one.pictures())
    untuned = SamplingModule(fresh(tuner), Sampler("ddim", 2, 4.0), asked).render(asked)
    assert not torch.equal(pictures, untuned)


def test_a_learned_identifier_speaks_only_where_it_is_named(
    fresh: Callable[[Tuner], Base], examples: Examples, fit: Fit, tmp_path: Path
) -> None:
    tuner = OPTIONS["identifier"][0]
    run = Run(tuner, None, fresh(tuner), examples, tmp_path)
    fit(run.stage, [run.snapshots])
    untuned = fresh(tuner)
    with torch.no_grad():
        one, other = (base.encode_prompts([SENTENCE, WITHOUT, ""]).tokens for base in (run.base, untuned))
    assert [torch.equal(one[i], other[i]) for i in range(3)] == [False, True, True]
    frozen = dict(untuned.text_encoder.named_parameters())
    for name, parameter in run.base.text_encoder.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name])


def test_the_sentence_of_each_step_is_the_one_that_learned_so_far(
    fresh: Callable[[Tuner], Base], examples: Examples, tmp_path: Path
) -> None:
    run = Run(OPTIONS["identifier"][0], None, fresh(ScaleTuner()), examples, tmp_path)
    draw = torch.Generator().manual_seed(0)
    _, before, _ = run.stage.batch(draw)
    with torch.no_grad():
        run.stage.learning["identifier"][0].add_(1)
    _, after, is_prior = run.stage.batch(draw)
    assert before.tokens.requires_grad
    for i, prior in enumerate(is_prior):
        assert torch.equal(before.tokens[i], after.tokens[i]) == bool(prior)
        assert not prior or torch.equal(after.tokens[i], examples.prior_text.tokens[0])
